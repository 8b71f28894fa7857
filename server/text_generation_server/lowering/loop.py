"""Several decode steps as one program: a recorded forward and recorded choices, which are run again and again. No
torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from text_generation_server.engine.contract import MOST_ENDS
from text_generation_server.lowering.lowered import LoweredProgram, Parameter, Result


@dataclass(frozen=True)
class Loop:
    """A program like `LoweredProgram`, which takes up to `most` steps.

    Beside what its parts take, it takes `count` [1] int32, the steps; `choice` [1] int32, the place of the choice among
    `choices`; `wanted` [slots] int32, how many tokens each row wants, and `ends` [slots, MOST_ENDS] int32, tokens after
    which it wants no more (-1: none). It stops as soon as no row wants any.

    It returns what its parts change, and `chosen` [slots, most, 2] as the choices have it, -1 in steps that it did
    not take.

    Attributes:
        constants: of all parts, each under `part name/its name there`.
    """

    name: str
    most: int
    forward: LoweredProgram
    choices: tuple[LoweredProgram, ...]
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    constants: dict[str, NDArray[Any]]


def loop(name: str, most: int, forward: LoweredProgram, choices: Sequence[LoweredProgram]) -> Loop:
    """What a choice takes is an argument of the loop, or a result of `forward`."""
    parts = (forward, *choices)
    made = {result.name for result in forward.results}
    parameters: dict[tuple[str, str], Parameter] = {}
    for part in parts:
        for parameter in part.parameters:
            if part is not forward and parameter.source == "argument" and parameter.name in made:
                continue
            mine = renamed(part, parameter)
            parameters.setdefault((mine.source, mine.name), mine)
    (slots,) = next(result.shape for result in choices[0].results if result.name == "positions")
    inputs = {"count": (1,), "choice": (1,), "wanted": (slots,), "ends": (slots, MOST_ENDS)}
    parameters |= {
        ("argument", each): Parameter("argument", each, shape, "int32") for each, shape in inputs.items()
    }
    places = {each: place for place, (source, each) in enumerate(parameters) if source == "argument"}
    carried = {
        result.name: replace(result, succeeds=places[result.name])
        for part in parts
        for result in part.results
        if result.name in places
    }
    chosen = Result("chosen", (slots, most, 2), "float32", None)
    constants = {f"{part.name}/{each}": array for part in parts for each, array in part.constants.items()}
    return Loop(
        name,
        most,
        forward,
        tuple(choices),
        tuple(parameters.values()),
        (*carried.values(), chosen),
        constants,
    )


def renamed(part: LoweredProgram, parameter: Parameter) -> Parameter:
    """A parameter of a part as one of the loop."""
    if parameter.source != "constant":
        return parameter
    return replace(parameter, name=f"{part.name}/{parameter.name}")
