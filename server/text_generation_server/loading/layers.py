"""Linear layers in fewer bits, on their way from a checkpoint's files to the devices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.checkpoint import OpenCheckpoint
from text_generation_server.model.description import WeightSpec
from text_generation_server.model.quantisation.rounding import quantised
from text_generation_server.model.quantisation.scheme import Part, Scheme
from text_generation_server.model.quantisation.stored import StoredLayers
from text_generation_server.model.stacked import Stacked


class LayerReader:
    """Makes the tensors of one layer after the other, each layer once: its tensors follow each other."""

    def __init__(self, stored: StoredLayers, made: Scheme | None) -> None:
        """`made`: of layers that are not stored in fewer bits."""
        self._stored = stored
        self._made = made
        self._source: tuple[str, Stacked | None] | None = None
        self._parts: dict[Part, NDArray[Any]] = {}

    def read_part(self, tensors: OpenCheckpoint, weight: WeightSpec, part: tuple[slice, ...]) -> NDArray[Any]:
        """What slices of a tensor's shape cut out of it. Its scales depend on all of the layer, so all of it is read.

        Raises UnsupportedModelError: the layer has values that cannot be right, or of which no fewer bits can be made.
        """
        assert weight.part is not None
        if (weight.source, weight.stacked) != self._source:
            # What the last layer took is free before the next one is read.
            self._parts = {}
            self._parts, self._source = self._layer(tensors, weight), (weight.source, weight.stacked)
        values = self._parts[weight.part]
        if weight.fused is not None:
            values = values.take(weight.fused.order(), axis=weight.split[0])
        return np.ascontiguousarray(values[part], dtype=weight.dtype)

    def _layer(self, tensors: OpenCheckpoint, weight: WeightSpec) -> dict[Part, NDArray[Any]]:
        try:
            if weight.source in self._stored:
                return self._stored[weight.source].read(tensors)
            assert self._made is not None
            if weight.stacked is not None:
                return quantised_experts(tensors, weight, self._made.values)
            values, scales = quantised(
                tensors.read(weight.source), self._made.values, outputs_first=weight.transposed
            )
        except ValueError as error:
            raise UnsupportedModelError(f"the weights cannot be loaded: {weight.source}: {error}") from error
        return {"weight": values, "scales": scales}


def quantised_experts(tensors: OpenCheckpoint, weight: WeightSpec, values: str) -> dict[Part, NDArray[Any]]:
    """The values in the layout of the device and the scales [experts, outputs], one expert after the other.

    Args:
        weight: either of them.
        values: their dtype.

    Raises:
        ValueError: there are values that cannot be right.
    """
    stacked = weight.stacked
    assert stacked is not None
    ranges = [slice(0, size) for size in stacked.matrix_shape(tensors)]
    # Of the scales, or of a matrix whose outputs are the last dimension on the device, or the one before.
    outputs_last = (stacked.dimension == 1) != weight.transposed
    outputs = weight.shape[-1] if weight.part == "scales" or outputs_last else weight.shape[1]
    ranges[stacked.dimension] = slice(0, outputs)
    inputs = ranges[1 - stacked.dimension].stop
    lying = (inputs, outputs) if outputs_last else (outputs, inputs)
    made = np.empty((weight.shape[0], *lying), values)
    scales = np.empty((weight.shape[0], outputs), np.float32)
    for expert in range(weight.shape[0]):
        matrix = stacked.read(tensors, expert, tuple(ranges))
        of_expert, scale = quantised(matrix, values, outputs_first=stacked.dimension == 0)
        made[expert] = of_expert if outputs_last else of_expert.T
        scales[expert] = scale[0]
    return {"weight": made, "scales": scales}
