"""How the weight of a linear layer lies on the device in fewer bits. No torch here.

A weight is taken apart into tensors that the programs read, and put together again inside the multiplication:

    weight[input, output] = values[input, output] * scales[group of the input, output] + offsets[the same]
"""

import math
from dataclasses import dataclass
from typing import Literal

from text_generation_server.engine.state import ITEM_BYTES

Part = Literal["weight", "scales", "offsets", "order"]
"""Names of the tensors of a quantised layer, which are those of its parameters; "weight" has the values."""


@dataclass(frozen=True)
class Scheme:
    """
    Attributes:
        values: their dtype: "int8", "int4" or "float8_e4m3fn".
        group: how many inputs that follow each other share a scale; None: all of them.
        offsets: zero is not in the middle of the values.
        ordered: the layer first brings its inputs into the order in which their groups follow each other.
    """

    values: str
    group: int | None = None
    offsets: bool = False
    ordered: bool = False

    def shapes(self, inputs: int, outputs: int) -> dict[Part, tuple[int, ...]]:
        """The tensors of a layer. A TPU multiplies with groups without a copy only if they are a dimension of their
        own: [groups, group, outputs]."""
        if self.group is None:
            return {"weight": (inputs, outputs), "scales": (1, outputs)}
        groups = inputs // self.group
        shapes: dict[Part, tuple[int, ...]] = {
            "weight": (groups, self.group, outputs),
            "scales": (groups, outputs),
        }
        if self.offsets:
            shapes["offsets"] = (groups, outputs)
        if self.ordered:
            shapes["order"] = (inputs,)
        return shapes

    def nbytes(self, inputs: int, outputs: int, dtype: str) -> int:
        """Of all tensors of a layer."""
        dtypes = self.dtypes(dtype)
        return int(
            sum(
                math.prod(shape) * ITEM_BYTES[dtypes[part]]
                for part, shape in self.shapes(inputs, outputs).items()
            )
        )

    def dtypes(self, dtype: str) -> dict[Part, str]:
        """Of the tensors of a layer of a model in `dtype`. A scale for a whole output costs nothing: it is exact."""
        return {
            "weight": self.values,
            "scales": "float32" if self.group is None else dtype,
            "offsets": dtype,
            "order": "int32",
        }


INT8, FP8 = Scheme("int8"), Scheme("float8_e4m3fn")

MADE = {"int8": INT8, "eetq": INT8, "bitsandbytes": INT8, "fp8": FP8}
"""What --quantize makes of any checkpoint while it is loaded; the launcher of TGI has its own two names for int8."""

STORED = ("gptq", "awq", "compressed-tensors")
"""What --quantize may say of a checkpoint that comes quantised, beside fp8. The launcher says so unasked."""
