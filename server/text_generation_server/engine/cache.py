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


class CacheAccess(Protocol):
    """Where one program writes its keys and values, and what its queries then see."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        """The cache [slots, length, ...] with `new` [rows, queries, ...] in its place; both in one layout."""
        ...

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        """What the queries attend to, [rows, seen, ...]: of the cache in its layout, or `new` as it came."""
        ...

    def seen(self, cache: Tensor, queries: int) -> int:
        """The length of that view."""
        ...

    def first_position(self) -> int | Tensor:
        """The position of the first query: one for all rows, or [rows] int32."""
        ...


class PieceAccess:
    """Pieces of prompts, each row at its own position of its own slot; queries see their slot from its start."""

    def __init__(self, slots: Tensor, starts: Tensor) -> None:
        """`slots`, `starts`: [rows] int32."""
        self.slots = slots
        self.starts = starts

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        return kernels.write_pieces(cache, new, self.slots, self.starts)

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        # All slots: `attention.attend` picks those of the rows, see `attention.over_pieces`.
        return cache

    def seen(self, cache: Tensor, queries: int) -> int:
        return int(cache.shape[1])

    def first_position(self) -> Tensor:
        return self.starts


class DecodeAccess:
    """One token per slot, each at its own position; queries see the first `seen_length` positions."""

    def __init__(self, positions: Tensor, seen_length: int) -> None:
        """`positions`: [slots] int32."""
        self.positions = positions
        self.seen_length = seen_length

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        # One scatter of one row per slot. The indexed dimensions lead, so XLA needs no transposition, updates the
        # donated buffer in place and touches nothing else. XLA drops what would be written behind the end of a slot:
        # so a slot that is parked there, see `programs.seat`, keeps what it holds.
        slots = torch.arange(cache.shape[0], dtype=torch.int32, device=cache.device)
        return cache.index_put((slots, self.positions), new[:, 0].to(cache.dtype))

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return cache[:, : self.seen_length]

    def seen(self, cache: Tensor, queries: int) -> int:
        return self.seen_length

    def first_position(self) -> Tensor:
        return self.positions


class ProbeAccess:
    """No cache at all: a prompt that sees itself, and layers that hold what the model wrote."""

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def view(self, cache: Tensor, new: Tensor) -> Tensor:
        return new

    def seen(self, cache: Tensor, queries: int) -> int:
        return queries

    def first_position(self) -> int:
        return 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer for all slots, [slots, length, ...] each, see `layout`."""

    is_compileable = True
    # Sliding windows are kept by the mask; every layer holds the full length.
    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, access: CacheAccess) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.access = access
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

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.access.seen(self.keys, query_length), 0

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
