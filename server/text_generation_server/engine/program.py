"""What a program is: a function of named tensors, and what it takes to record and compile it. No torch here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Tensors: TypeAlias = "Mapping[str, Tensor]"
"""By name."""

Role = Literal["state", "input"]
STATE: Role = "state"
INPUT: Role = "input"


@dataclass(frozen=True)
class Spec:
    """An array that does not exist yet.

    Attributes:
        dtype: its name in torch and numpy alike, for example "bfloat16".
        role: "state" lives on the device between programs, "input" comes with a call.
    """

    shape: tuple[int, ...]
    dtype: str
    role: Role


@dataclass(frozen=True)
class Program:
    """A pure function of named tensors.

    Attributes:
        name: unique among the programs of an engine, for example "forward 256".
        function: takes tensors by the names of `arguments`, and returns tensors by name. A result that has the name
            of a state argument succeeds it, in its buffer: shape and dtype must be equal. The function may also read
            weights of a model, which are no arguments.
        arguments: in the order in which they enter the compiled program, state first.
    """

    name: str
    function: "Callable[[Tensors], dict[str, Tensor]]"
    arguments: dict[str, Spec]
