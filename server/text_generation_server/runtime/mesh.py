"""The devices that run programs, and the arrays on them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import monitoring
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from numpy.typing import NDArray

from text_generation_server.engine.layout import TILES, order_in_tiles, order_of_weight
from text_generation_server.engine.sharding import AXES, WHOLE, Partition
from text_generation_server.errors import InvalidSettingError
from text_generation_server.runtime import host_memory

Buffer = Any
"""A jax.Array: it lives on the devices, and may still be computed."""

_compilations = 0


def count_compilations(event: str, seconds: float, **_: object) -> None:
    global _compilations
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations += 1


monitoring.register_event_duration_secs_listener(count_compilations)


def compilations() -> int:
    """Programs compiled by this process so far, wherever; one that is loaded from the cache does not count."""
    return _compilations


@dataclass(frozen=True)
class DeviceMesh:
    """The devices that a program runs on together, with the axes AXES. See `engine.device.Device`."""

    mesh: Mesh

    @property
    def devices(self) -> list[Any]:
        return list(self.mesh.devices.flat)

    @property
    def size(self) -> int:
        return int(self.mesh.size)

    @property
    def platform(self) -> str:
        """For example "tpu"."""
        return str(self.devices[0].platform)

    @property
    def is_cpu(self) -> bool:
        return self.platform == "cpu"

    @property
    def kind(self) -> str:
        """For people, for example "TPU v5 lite"."""
        return str(self.devices[0].device_kind)

    def first(self, count: int) -> "DeviceMesh":
        """So many of the devices."""
        return self if count == self.size else mesh_of(self.devices[:count])

    def placed(self, partition: Partition) -> Any:
        """The jax.sharding.Sharding of arrays that are split so."""
        if self.size == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*partition))

    def send(self, array: NDArray[Any], partition: Partition = WHOLE) -> Buffer:
        """Copies a host array to the devices; returns at once. Of several processes each sends to its own devices."""
        placement = self.placed(partition)
        if placement.is_fully_addressable:
            return jax.device_put(array, placement)
        return jax.make_array_from_callback(array.shape, placement, array.__getitem__)

    def placed_as(self, name: str, shape: tuple[int, ...], dtype: str, partition: Partition) -> Any:
        """The same of an argument or a result of that name, with its layout where that is not left to the compiler."""
        sharding = self.placed(partition)
        # For several chips the compiler puts its own tiles in the place of others.
        if self.platform != "tpu" or self.size > 1:
            return sharding
        order = order_in_tiles(name, shape, np.dtype(dtype).itemsize)
        return sharding if order is None else Format(Layout(order, TILES), sharding)

    def placed_weight(self, name: str, shape: tuple[int, ...], partition: Partition) -> Any:
        """The same of a weight."""
        sharding = self.placed(partition)
        order = order_of_weight(name, shape) if self.platform == "tpu" else None
        return sharding if order is None else Format(Layout(order), sharding)

    def zeros(self, name: str, shape: tuple[int, ...], dtype: str, partition: Partition = WHOLE) -> Buffer:
        """An argument of that name, of zeros, made on the devices."""
        placement = self.placed_as(name, shape, dtype, partition)
        if isinstance(placement, Format):
            return jax.jit(partial(jax.numpy.zeros, shape, dtype), out_shardings=placement)()
        return jax.numpy.zeros(shape, dtype, device=placement)

    def assemble(
        self,
        name: str,
        shape: tuple[int, ...],
        partition: Partition,
        read: Callable[[tuple[slice, ...]], NDArray[Any]],
    ) -> Buffer:
        """A weight of which each device gets its own part; `read` gives the part that slices of `shape` cut out."""
        array = jax.make_array_from_callback(shape, self.placed(partition), read)
        placement = self.placed_weight(name, shape, partition)
        return jax.device_put(array, placement, donate=True) if isinstance(placement, Format) else array

    def free_memory(self) -> int | None:
        """Bytes that can still be allocated on each device; None if it does not tell."""
        if self.is_cpu:
            # Devices of a CPU share its memory.
            free = host_memory.free_memory()
            return None if free is None else free // self.size
        statistics = self.devices[0].memory_stats() or {}
        if "bytes_limit" not in statistics:
            return None
        return int(statistics["bytes_limit"]) - int(statistics.get("bytes_in_use", 0))

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes in use on the first device, and its limit; None where it does not tell, as a CPU."""
        statistics = self.devices[0].memory_stats() or {}
        return statistics.get("bytes_in_use"), statistics.get("bytes_limit")

    def start_reading(self, buffer: Buffer) -> None:
        """Lets the copy to the host begin as soon as the array is computed."""
        buffer.copy_to_host_async()

    def read(self, buffer: Buffer) -> NDArray[Any]:
        """The array on the host; waits until it is computed. RuntimeError if the device fails."""
        return np.asarray(buffer)

    def is_computed(self, buffer: Buffer) -> bool:
        return bool(buffer.is_ready())

    def compilations(self) -> int:
        """See `compilations`."""
        return compilations()


def open_mesh(count: int | None = None) -> DeviceMesh:
    """The devices of this host.

    PJRT_DEVICE=CPU or TPU chooses the platform, as it does for torch_xla; without it JAX takes the best there is.

    Args:
        count: how many of them; None: all.

    Raises:
        InvalidSettingError: there is no such device, or it cannot be used, or there are fewer.
    """
    wanted = os.environ.get("PJRT_DEVICE", "").lower()
    if wanted and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", wanted)
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise InvalidSettingError(
            f"PJRT_DEVICE={wanted or 'not set'}: the device cannot be used: {error}. PJRT_DEVICE=CPU works anywhere"
        ) from error
    if count is not None and count > len(devices):
        raise InvalidSettingError(
            f"--num-shard (HF_NUM_CHIPS) is {count}, and this host has {len(devices)}: use {len(devices)} or less, or "
            "leave it out, for all of them"
        )
    return mesh_of(devices[:count])


def mesh_of(devices: list[Any]) -> DeviceMesh:
    """One replica, whose model these devices share."""
    return DeviceMesh(Mesh(np.array(devices).reshape(1, -1), AXES))
