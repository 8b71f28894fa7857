"""Weights on their way from a checkpoint's files to the devices, one tensor at a time.

On the host there is never more than the tensor that is read and its converted copy; on a CPU, which is the device, the
converted copy stays.
"""

import math
import time
from functools import partial
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from text_generation_server.engine.sharding import Sharding
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.loading.layers import LayerReader
from text_generation_server.model.checkpoint import NUMBERS, Checkpoint, OpenCheckpoint
from text_generation_server.model.description import ModelDescription, WeightSpec
from text_generation_server.model.quantisation.stored import StoredLayers
from text_generation_server.model.stacked import read_stacked
from text_generation_server.runtime.mesh import Buffer, DeviceMesh

PROGRESS_SECONDS = 5.0


def check_tensors(
    description: ModelDescription, checkpoint: Checkpoint, stored: StoredLayers | None = None
) -> None:
    """Raises UnsupportedModelError for the first tensor whose shape or dtype does not fit; reads no values."""
    for name, weight in description.weights.items():
        if weight.part not in (None, "weight"):
            continue  # It comes from the same tensor.
        # Groups of inputs are one dimension more.
        is_grouped = weight.part is not None and weight.stacked is None
        shape = (math.prod(weight.shape[:-1]), weight.shape[-1]) if is_grouped else weight.shape
        if weight.stacked is not None:
            wanted = weight.stacked.headers(shape[0], shape[:0:-1] if weight.transposed else shape[1:])
        else:
            wanted = {weight.source: (tuple(reversed(shape)) if weight.transposed else shape, NUMBERS)}
        for tensor, (fitting, kinds) in wanted.items():
            layer = stored.get(tensor) if stored else None
            given = layer.shape if layer else checkpoint.shapes[tensor]
            kind = NUMBERS[0] if layer else checkpoint.kind(tensor)
            if given != fitting:
                raise UnsupportedModelError(
                    f"the weights in {checkpoint.directory} do not fit config.json: {tensor} has the shape "
                    f"{list(given)}, and {description.model_class} needs {list(fitting)} for {name}"
                )
            if kind not in kinds:
                raise UnsupportedModelError(
                    f"the weights in {checkpoint.directory} cannot be loaded: {tensor} is of type {kind}, and only "
                    f"{', '.join(kinds)} are read"
                )


def load_weights(
    description: ModelDescription,
    checkpoint: Checkpoint,
    mesh: DeviceMesh,
    sharding: Sharding,
    layers: LayerReader | None = None,
) -> dict[str, Buffer]:
    """All weights on the devices, in the layout and dtype of the programs, by name; each device gets its part.

    Args:
        layers: makes those in fewer bits; None: there are none.

    Raises:
        UnsupportedModelError: a file is damaged.
    """
    started = reported = time.monotonic()
    total = sum(weight.nbytes for weight in description.weights.values())
    done = 0
    weights: dict[str, Buffer] = {}
    with checkpoint.opened() as tensors:
        for name, weight in description.weights.items():
            read = layers.read_part if layers and weight.part is not None else read_part
            partition = sharding.weight(name, weight.shape)
            weights[name] = mesh.assemble(name, weight.shape, partition, partial(read, tensors, weight))
            done += weight.nbytes
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                logger.info("Weights: {:.1f} of {:.1f} GB", done / 1e9, total / 1e9)
    seconds = time.monotonic() - started
    logger.info("Weights: {:.2f} GB in {:.1f} s, {:.0f} MB/s", done / 1e9, seconds, done / 1e6 / seconds)
    return weights


def read_part(tensors: OpenCheckpoint, weight: WeightSpec, part: tuple[slice, ...]) -> NDArray[Any]:
    """What slices of a weight's shape cut out of it, in its layout and dtype."""
    if weight.stacked is not None:
        return read_stacked(tensors, weight.stacked, weight.shape, part, weight.transposed, weight.dtype)
    stored = part[::-1] if weight.transposed else part
    if weight.fused is None:
        values = tensors.read_part(weight.source, stored)
    else:
        outputs = weight.split[0]
        dimension = len(part) - 1 - outputs if weight.transposed else outputs
        places = weight.fused.order()[part[outputs]]
        values = tensors.read_places(weight.source, stored, dimension, places)
    return np.asarray(values.T if weight.transposed else values, dtype=weight.dtype, order="C")
