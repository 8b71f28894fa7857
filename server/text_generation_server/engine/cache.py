"""The static KV cache as transformers sees it: one layer object per model layer, one row per slot.

transformers' own static cache has one position for all rows. Here each row has its own, so that requests
join and leave without touching each other. Tensors are never changed in place: a layer holds the successor
of its keys and values after `update`, and the program returns it. The compiler turns that into writes
into the donated buffers.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from text_generation_server.engine import kernels
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.lanes import laid_out
from text_generation_server.engine.narrow import Narrow, narrowed, note
from text_generation_server.engine.state import BatchShape


class CacheAccess(Protocol):
    """Where one program writes its keys and values, and what its queries then see."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        """The cache [slots, length, ...] with `new` [rows, queries, ...] in its place; both in one layout, but where
        two slots share a row `new` has the lanes of one."""
        ...

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        """What the queries attend to, [rows, seen, ...]: of the cache in its layout, or `new` as it came."""
        ...

    def write_scales(self, scales: Tensor, new: Tensor) -> Tensor:
        """The scales of a cache in int8, [slots, heads, length], with `new` [rows, heads, queries] in its place."""
        ...

    def view_scales(self, scales: Tensor, queries: int) -> Tensor:
        """Of what the queries attend to."""
        ...

    def seen(self, size: int, queries: int) -> tuple[int, int | Tensor]:
        """The length of that view, and what the index of a key in it must be raised by to be its position.

        That is 0, or of a ring [rows, 1, 1, length] int32; positions below 0 are not written yet. `size`: how many
        positions the cache keeps.
        """
        ...

    def is_ring(self, size: int) -> bool:
        """Whether a cache of so many positions keeps the last ones alone."""
        ...

    def first_position(self) -> int | Tensor:
        """The position of the first query: one for all rows, or [rows] int32."""
        ...


def ring_offsets(size: int, seen: int, ends: Tensor) -> Tensor:
    """What raises the first `seen` indices of a ring to the positions that lie there, [rows, 1, 1, seen] int32.

    `ends`: [rows] int32, the position behind the last one that was written of each row.
    """
    places = torch.arange(seen, dtype=torch.int32, device=ends.device)
    last = ends.unsqueeze(1) - 1
    positions = last - torch.remainder(last - places, size)
    return (positions - places)[:, None, None, :]


def kept_places(size: int, kept: Tensor, shape: BatchShape) -> Tensor:
    """Which indices of a slot, or of a ring of that size, belong to a prefix, [size] bool.

    `kept`: [1] int32, the tokens of the prefix. Of a ring, those that what follows will see, see `Ring.first_seen`.
    """
    places = torch.arange(size, dtype=torch.int32, device=kept.device)
    ring = shape.ring
    if ring is None or size == shape.length:
        return places < kept
    first = torch.clamp(kept, max=shape.length - ring.widest) - ring.window + 1
    return places + ring_offsets(size, size, kept).reshape(-1) >= torch.clamp(first, min=0)


class PieceAccess:
    """Pieces of prompts, each row at its own position of its own slot; queries see their slot from its start."""

    def __init__(self, slots: Tensor, starts: Tensor, length: int) -> None:
        """`slots`, `starts`: [rows] int32. `length`: of a slot."""
        self.slots = slots
        self.starts = starts
        self.length = length

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        return kernels.write_pieces(cache, new, self.slots, self.starts, self.is_ring(cache.shape[1]))

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        # All slots: `attention.attend` picks those of the rows, see `attention.over_pieces`.
        return cache

    def write_scales(self, scales: Tensor, new: Tensor) -> Tensor:
        is_ring = self.is_ring(scales.shape[2])
        return kernels.write_pieces(scales, new, self.slots, self.starts, is_ring, positions=2)

    def view_scales(self, scales: Tensor, queries: int) -> Tensor:
        return scales

    def seen(self, size: int, queries: int) -> tuple[int, int | Tensor]:
        return size, ring_offsets(size, size, self.starts + queries) if self.is_ring(size) else 0

    def is_ring(self, size: int) -> bool:
        return size < self.length

    def first_position(self) -> Tensor:
        return self.starts


class DecodeAccess:
    """Tokens of each slot from its own position on; queries see the first `seen_length` positions."""

    def __init__(self, positions: Tensor, seen_length: int, length: int) -> None:
        """`positions`: [slots] int32, of the first token. `length`: of a slot."""
        self.positions = positions
        self.seen_length = seen_length
        self.length = length

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        # A slot that is parked behind its end, see `programs.seat`, keeps what it holds.
        return kernels.write_steps(cache, new, self._places(cache.shape[1], new.shape[1]))

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return cache[:, : self.seen(cache.shape[1], new.shape[1])[0]]

    def write_scales(self, scales: Tensor, new: Tensor) -> Tensor:
        # All of them are written, which are few: to scatter into their last dimension a TPU would turn them around.
        size = scales.shape[2]
        places = self._places(size, new.shape[2])
        indices = torch.arange(size, dtype=torch.int32, device=scales.device)
        for query in range(new.shape[2]):
            here = (indices == places[:, query : query + 1]).unsqueeze(1)
            scales = torch.where(here, new[:, :, query : query + 1], scales)
        return scales

    def view_scales(self, scales: Tensor, queries: int) -> Tensor:
        return scales[:, :, : self.seen(scales.shape[2], queries)[0]]

    def _places(self, size: int, queries: int) -> Tensor:
        """The indices of the tokens in the cache, [slots, queries] int32; beyond it where nothing is written."""
        ahead = torch.arange(queries, dtype=torch.int32, device=self.positions.device)
        places = self.positions.unsqueeze(1) + ahead
        if self.is_ring(size):
            places = torch.where(places < self.length, torch.remainder(places, size), size)
        return places

    def seen(self, size: int, queries: int) -> tuple[int, int | Tensor]:
        if not self.is_ring(size):
            return self.seen_length, 0
        seen = min(self.seen_length, size)
        return seen, ring_offsets(size, seen, self.positions + queries)

    def is_ring(self, size: int) -> bool:
        return size < self.length

    def first_position(self) -> Tensor:
        return self.positions


class ProbeAccess:
    """No cache at all: a prompt that sees itself, and layers that hold what the model wrote."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def write_scales(self, scales: Tensor, new: Tensor) -> Tensor:
        return new

    def view_scales(self, scales: Tensor, queries: int) -> Tensor:
        return scales

    def seen(self, size: int, queries: int) -> tuple[int, int | Tensor]:
        return queries, 0

    def is_ring(self, size: int) -> bool:
        return False

    def first_position(self) -> int:
        return 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer for all slots, [slots, length, ...] each, see `layout` and `rings`.

    transformers makes one mask for the layers that are `is_sliding`, and one for the others.
    """

    is_compileable = True

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        access: CacheAccess,
        dtype: CacheDtype | None = None,
        scales: tuple[Tensor, Tensor] | None = None,
        *,
        is_paired: bool = False,
    ) -> None:
        """
        Args:
            dtype: of keys and values; None: that of the model.
            scales: of both in int8, see `BatchShape.cache`.
            is_paired: see `BatchShape.is_paired`.
        """
        super().__init__()
        self.is_paired = is_paired
        self.keys, self.values = keys, values
        self.key_scales: Tensor | None
        self.value_scales: Tensor | None
        self.key_scales, self.value_scales = scales or (None, None)
        self.access = access
        self.dtype = dtype
        self.is_sliding = access.is_ring(keys.shape[1])
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise RuntimeError("the cache is allocated before the model is traced")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Takes [rows, heads, queries, head_dim] from the model; returns what `attention.attend` expects."""
        new_keys, new_values = key_states.transpose(1, 2), value_states.transpose(1, 2)
        self.keys, self.key_scales, seen_keys = self._written(self.keys, self.key_scales, new_keys)
        self.values, self.value_scales, seen_values = self._written(
            self.values, self.value_scales, new_values
        )
        return seen_keys, seen_values

    def _written(
        self, held: Tensor, scales: Tensor | None, new: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Keys or values and their scales with `new` [rows, queries, heads, head_dim], and what the queries see."""
        if self.dtype is None:
            held = self.access.write(held, self._laid_out(new, held))
            return held, None, self.access.view(held, new)
        narrow, new_scales = narrowed(new, self.dtype)
        held = self.access.write(held, self._laid_out(narrow, held))
        seen_scales = None
        if scales is not None and new_scales is not None:
            scales = self.access.write_scales(scales, new_scales)
            seen_scales = self.access.view_scales(scales, new.shape[1])
        return held, scales, note(self.access.view(held, narrow), Narrow(seen_scales))

    def _laid_out(self, new: Tensor, held: Tensor) -> Tensor:
        return new.flatten(2) if self.is_paired else laid_out(new, held)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int | Tensor]:
        return self.access.seen(self.keys.shape[1], query_length)

    def get_seq_length(self) -> int | Tensor:
        return self.access.first_position()

    def get_max_length(self) -> int:
        return int(self.keys.shape[1])


def slot_cache(tensors: Mapping[str, Tensor], shape: BatchShape, access: CacheAccess) -> Cache:
    """A transformers cache over existing tensors, named as in `BatchShape.cache`, for one forward."""
    layers = []
    for index in range(len(shape.layers)):
        scales = None
        if f"key_scales.{index}" in tensors:
            scales = tensors[f"key_scales.{index}"], tensors[f"value_scales.{index}"]
        keys, values = tensors[f"keys.{index}"], tensors[f"values.{index}"]
        is_paired = shape.is_paired(index)
        layers.append(SlotLayer(keys, values, access, shape.cache_dtype, scales, is_paired=is_paired))
    return Cache(layers=layers)


def probing_cache(token: Tensor, layers: int) -> Cache:
    """A cache of so many layers that keeps what the model writes, for a call with one token."""
    return Cache(layers=[SlotLayer(token, token, ProbeAccess()) for _ in range(layers)])


def successors(cache: Cache) -> dict[str, Tensor]:
    """The tensors after the forward, named and ordered as in `BatchShape.cache`."""
    found: dict[str, Tensor | None] = {}
    for index, layer in enumerate(cache.layers):
        found |= {f"keys.{index}": layer.keys, f"key_scales.{index}": layer.key_scales}
        found |= {f"values.{index}": layer.values, f"value_scales.{index}": layer.value_scales}
    return {name: tensor for name, tensor in found.items() if tensor is not None}
