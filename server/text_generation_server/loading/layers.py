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


class LayerReader:
    """Makes the tensors of one layer after the other, each layer once: its tensors follow each other."""

    def __init__(self, stored: StoredLayers, made: Scheme | None) -> None:
        """`made`: of layers that are not stored in fewer bits."""
        self._stored = stored
        self._made = made
        self._source: str | None = None
        self._parts: dict[Part, NDArray[Any]] = {}

    def read_part(self, tensors: OpenCheckpoint, weight: WeightSpec, part: tuple[slice, ...]) -> NDArray[Any]:
        """What slices of a tensor's shape cut out of it. Its scales depend on all of the layer, so all of it is read.

        Raises UnsupportedModelError: the layer has values that cannot be right, or of which no fewer bits can be made.
        """
        assert weight.part is not None
        if weight.source != self._source:
            # What the last layer took is free before the next one is read.
            self._parts = {}
            self._parts, self._source = self._layer(tensors, weight), weight.source
        values = self._parts[weight.part]
        if weight.fused is not None:
            values = values.take(weight.fused.order(), axis=weight.split[0])
        return np.ascontiguousarray(values[part], dtype=weight.dtype)

    def _layer(self, tensors: OpenCheckpoint, weight: WeightSpec) -> dict[Part, NDArray[Any]]:
        try:
            if weight.source in self._stored:
                return self._stored[weight.source].read(tensors)
            assert self._made is not None
            values, scales = quantised(
                tensors.read(weight.source), self._made.values, outputs_first=weight.transposed
            )
        except ValueError as error:
            raise UnsupportedModelError(f"the weights cannot be loaded: {weight.source}: {error}") from error
        return {"weight": values, "scales": scales}
