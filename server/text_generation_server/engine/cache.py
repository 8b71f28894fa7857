"""The static KV cache as transformers sees it: one layer object per model layer, one row per slot.

transformers' own static cache has one position for all rows. Here each row has its own, so that requests
join and leave without touching each other. Tensors are never changed in place: a layer holds the successor
of its keys and values after `update`, and the program returns it. The compiler turns that into writes
into the donated buffers.
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from text_generation_server.engine import kernels
from text_generation_server.engine.lanes import laid_out
from text_generation_server.engine.state import BatchShape


class CacheAccess(Protocol):
    """Where one program writes its keys and values, and what its queries then see."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        """The cache [slots, length, ...] with `new` [rows, queries, ...] in its place; both in one layout."""
        ...

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        """What the queries attend to, [rows, seen, ...]: of the cache in its layout, or `new` as it came."""
        ...

    def seen(self, cache: Tensor, queries: int) -> tuple[int, int | Tensor]:
        """The length of that view, and what the index of a key in it must be raised by to be its position.

        That is 0, or of a ring [rows, 1, 1, length] int32; positions below 0 are not written yet.
        """
        ...

    def is_ring(self, cache: Tensor) -> bool:
        """Whether the cache keeps the last positions alone."""
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


def kept_places(held: Tensor, kept: Tensor, shape: BatchShape) -> Tensor:
    """Which indices of keys or values [slots, length or size of the ring, ...] belong to a prefix, [length] bool.

    `kept`: [1] int32, the tokens of the prefix. Of a ring, those that what follows will see, see `Ring.first_seen`.
    """
    size = held.shape[1]
    places = torch.arange(size, dtype=torch.int32, device=held.device)
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
        return kernels.write_pieces(cache, new, self.slots, self.starts, self.is_ring(cache))

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        # All slots: `attention.attend` picks those of the rows, see `attention.over_pieces`.
        return cache

    def seen(self, cache: Tensor, queries: int) -> tuple[int, int | Tensor]:
        size = int(cache.shape[1])
        return size, ring_offsets(size, size, self.starts + queries) if self.is_ring(cache) else 0

    def is_ring(self, cache: Tensor) -> bool:
        return cache.shape[1] < self.length

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
        # One scatter of the rows of all slots. The indexed dimensions lead, so XLA needs no transposition, updates the
        # donated buffer in place and touches nothing else. XLA drops what would be written behind the end of a slot:
        # so a slot that is parked there, see `programs.seat`, keeps what it holds.
        slots = torch.arange(cache.shape[0], dtype=torch.int32, device=cache.device).unsqueeze(1)
        ahead = torch.arange(new.shape[1], dtype=torch.int32, device=cache.device)
        places = self.positions.unsqueeze(1) + ahead
        if self.is_ring(cache):
            size = cache.shape[1]
            places = torch.where(places < self.length, torch.remainder(places, size), size)
        return cache.index_put((slots, places), new.to(cache.dtype))

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return cache[:, : self.seen(cache, new.shape[1])[0]]

    def seen(self, cache: Tensor, queries: int) -> tuple[int, int | Tensor]:
        if not self.is_ring(cache):
            return self.seen_length, 0
        size = int(cache.shape[1])
        seen = min(self.seen_length, size)
        return seen, ring_offsets(size, seen, self.positions + queries)

    def is_ring(self, cache: Tensor) -> bool:
        return cache.shape[1] < self.length

    def first_position(self) -> Tensor:
        return self.positions


class ProbeAccess:
    """No cache at all: a prompt that sees itself, and layers that hold what the model wrote."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def seen(self, cache: Tensor, queries: int) -> tuple[int, int | Tensor]:
        return queries, 0

    def is_ring(self, cache: Tensor) -> bool:
        return False

    def first_position(self) -> int:
        return 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer for all slots, [slots, length, ...] each, see `layout` and `rings`.

    transformers makes one mask for the layers that are `is_sliding`, and one for the others.
    """

    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, access: CacheAccess) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.access = access
        self.is_sliding = access.is_ring(keys)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise RuntimeError("the cache is allocated before the model is traced")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Takes [rows, heads, queries, head_dim] from the model; returns what `attention.attend` expects."""
        new_keys, new_values = key_states.transpose(1, 2), value_states.transpose(1, 2)
        self.keys = self.access.write(self.keys, laid_out(new_keys, self.keys))
        self.values = self.access.write(self.values, laid_out(new_values, self.values))
        return self.access.view(self.keys, new_keys), self.access.view(self.values, new_values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int | Tensor]:
        return self.access.seen(self.keys, query_length)

    def get_seq_length(self) -> int | Tensor:
        return self.access.first_position()

    def get_max_length(self) -> int:
        return int(self.keys.shape[1])


def slot_cache(tensors: list[Tensor], access: CacheAccess) -> Cache:
    """A transformers cache over existing tensors (keys and values of each layer in turn), for one forward."""
    return Cache(layers=[SlotLayer(k, v, access) for k, v in zip(tensors[0::2], tensors[1::2], strict=True)])


def successors(cache: Cache) -> list[Tensor]:
    """The tensors after the forward, in the order of `slot_cache`."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
