"""Where the weights of experts are in a checkpoint. No torch here.

A device has one array for all experts of a layer. Checkpoints have a tensor for each expert (Mixtral, Qwen, OLMoE), or
one for all (Granite, gpt-oss); the latter have the first two matrices of an expert in one, one after the other or
output by output in turn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.checkpoint import NUMBERS, OpenCheckpoint
from text_generation_server.model.quantisation import mxfp4


@dataclass(frozen=True)
class Stacked:
    """
    Attributes:
        tensors: one for each expert, or a single one whose first dimension they are.
        dimension: of a tensor's matrix or bias, which counts the outputs: 0 or 1.
        outputs: how many the tensor has.
        first, step: of these, which output is the first of the weight, and how far the next one is.
        exponents: the tensor beside a single one that has its values in 4 bits, see `quantisation.mxfp4`; None: it has
            numbers.
    """

    tensors: tuple[str, ...]
    dimension: int
    outputs: int
    first: int = 0
    step: int = 1
    exponents: str | None = None

    @property
    def is_one(self) -> bool:
        """All experts are in one tensor."""
        return len(self.tensors) == 1

    def headers(
        self, experts: int, matrix: tuple[int, ...]
    ) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
        """The shape that each tensor must have, and the types that it may have in the words of safetensors, for a
        weight of which each expert has a matrix, or bias, of this shape in the checkpoint."""
        shape = (*matrix[: self.dimension], self.outputs, *matrix[self.dimension + 1 :])
        if self.exponents is not None:
            groups = (experts, shape[0], shape[1] // mxfp4.GROUP)
            return {self.tensors[0]: ((*groups, mxfp4.BYTES), ("U8",)), self.exponents: (groups, ("U8",))}
        return dict.fromkeys(self.tensors, ((experts, *shape) if self.is_one else shape, NUMBERS))

    def matrix_shape(self, tensors: OpenCheckpoint) -> tuple[int, ...]:
        """Of what an expert has in a tensor."""
        shape = tensors.shape(self.tensors[0])
        if self.exponents is not None:
            return shape[1], shape[2] * mxfp4.GROUP
        return shape[1:] if self.is_one else shape

    def read(self, tensors: OpenCheckpoint, expert: int, part: tuple[slice, ...]) -> NDArray[Any]:
        """What slices cut out of an expert's matrix or bias as the checkpoint has it.

        Raises ValueError: it has values that cannot be right.
        """
        ranges = list(part)
        start, last = (
            self.first + self.step * place
            for place in (part[self.dimension].start, part[self.dimension].stop - 1)
        )
        ranges[self.dimension] = slice(start, last + 1)
        if self.exponents is not None:
            values = self._dequantised(tensors, expert, *ranges)
        elif self.is_one:
            values = tensors.read_part(self.tensors[0], (slice(expert, expert + 1), *ranges))[0]
        else:
            values = tensors.read_part(self.tensors[expert], tuple(ranges))
        every = (slice(None),) * self.dimension + (slice(None, None, self.step),)
        found: NDArray[Any] = values[every]
        return found

    def _dequantised(
        self, tensors: OpenCheckpoint, expert: int, outputs: slice, inputs: slice
    ) -> NDArray[np.float32]:
        """Of the groups that have these inputs, and no others."""
        assert self.exponents is not None
        groups = slice(inputs.start // mxfp4.GROUP, -(-inputs.stop // mxfp4.GROUP))
        place = (slice(expert, expert + 1), outputs, groups)
        values = tensors.read_part(self.tensors[0], (*place, slice(0, mxfp4.BYTES)))[0]
        exponents = tensors.read_part(self.exponents, place)[0]
        start = groups.start * mxfp4.GROUP
        return mxfp4.dequantised(values, exponents)[:, inputs.start - start : inputs.stop - start]


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

    Raises:
        UnsupportedModelError: there are values that cannot be right.
    """
    ranges = [slice(*each.indices(size)) for each, size in zip(part, shape, strict=True)]
    experts, inner = ranges[0], tuple(ranges[1:])
    made = np.empty([each.stop - each.start for each in ranges], dtype)
    for place, expert in enumerate(range(experts.start, experts.stop)):
        try:
            values = stacked.read(tensors, expert, inner[::-1] if transposed else inner)
        except ValueError as error:
            raise UnsupportedModelError(
                f"the weights cannot be loaded: {stacked.tensors[0]}: {error}"
            ) from error
        made[place] = values.T if transposed else values
    return made
