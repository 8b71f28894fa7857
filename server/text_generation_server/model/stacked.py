"""Where the weights of experts are in a checkpoint. No torch here.

A device has one array for all experts of a layer. Checkpoints have a tensor for each expert (Mixtral, Qwen, OLMoE), or
one for all (Granite, gpt-oss); the latter have the first two matrices of an expert in one, one after the other or
output by output in turn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.model.checkpoint import OpenCheckpoint


@dataclass(frozen=True)
class Stacked:
    """
    Attributes:
        tensors: one for each expert, or a single one whose first dimension they are.
        dimension: of a tensor's matrix or bias, which counts the outputs: 0 or 1.
        outputs: how many the tensor has.
        first, step: of these, which output is the first of the weight, and how far the next one is.
    """

    tensors: tuple[str, ...]
    dimension: int
    outputs: int
    first: int = 0
    step: int = 1

    def tensor_shape(self, experts: int, matrix: tuple[int, ...]) -> tuple[int, ...]:
        """What each tensor must have, for a weight of which each expert has a matrix, or bias, of this shape."""
        shape = (*matrix[: self.dimension], self.outputs, *matrix[self.dimension + 1 :])
        return shape if len(self.tensors) == experts and not self.is_one else (experts, *shape)

    @property
    def is_one(self) -> bool:
        """All experts are in one tensor."""
        return len(self.tensors) == 1

    def read(self, tensors: OpenCheckpoint, expert: int, part: tuple[slice, ...]) -> NDArray[Any]:
        """What slices cut out of an expert's matrix or bias as the checkpoint has it."""
        ranges = list(part)
        start, last = (
            self.first + self.step * place
            for place in (part[self.dimension].start, part[self.dimension].stop - 1)
        )
        ranges[self.dimension] = slice(start, last + 1)
        if self.is_one:
            values = tensors.read_part(self.tensors[0], (slice(expert, expert + 1), *ranges))[0]
        else:
            values = tensors.read_part(self.tensors[expert], tuple(ranges))
        every = (slice(None),) * self.dimension + (slice(None, None, self.step),)
        found: NDArray[Any] = values[every]
        return found


def read_stacked(
    tensors: OpenCheckpoint,
    stacked: Stacked,
    shape: tuple[int, ...],
    part: tuple[slice, ...],
    transposed: bool,
    dtype: str,
) -> NDArray[Any]:
    """What slices of the shape on the device cut out, one expert after the other: beside the result, one is held.

    Args:
        transposed: the checkpoint has the matrices the other way round.
    """
    ranges = [slice(*each.indices(size)) for each, size in zip(part, shape, strict=True)]
    experts, inner = ranges[0], tuple(ranges[1:])
    made = np.empty([each.stop - each.start for each in ranges], dtype)
    for place, expert in enumerate(range(experts.start, experts.stop)):
        values = stacked.read(tensors, expert, inner[::-1] if transposed else inner)
        made[place] = values.T if transposed else values
    return made
