"""Weights that are read as for devices and thrown away, so that a test sees what the host holds meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
from numpy.typing import NDArray

from text_generation_server.engine.sharding import Partition
from text_generation_server.runtime.mesh import DeviceMesh

Shape = tuple[int, ...]


def discard_weights(patch: pytest.MonkeyPatch) -> list[tuple[Shape, Shape]]:
    """Devices get nothing from now on. The list fills with the shape of each array and of each part that was read."""
    read: list[tuple[Shape, Shape]] = []

    def discard(
        self: DeviceMesh,
        name: str,
        shape: Shape,
        partition: Partition,
        part: Callable[[tuple[slice, ...]], NDArray[Any]],
    ) -> None:
        # As JAX does: all parts before the first goes to its device, and what all get once.
        indices = list(self.placed(partition).addressable_devices_indices_map(shape).values())
        parts = [part(index) for index in (indices if partition else indices[:1])]
        read.extend((shape, part.shape) for part in parts)

    patch.setattr(DeviceMesh, "assemble", discard)
    return read
