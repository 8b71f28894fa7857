"""How keys and values lie in the memory of a device.

A TPU pads the last dimension of an array to 128 lanes. Heads of 128 lie as they are, [slots, length, heads, head_dim].
Smaller ones would take twice their memory, and the compiler would turn the whole cache around for each write
(docs/performance.md, "Layout of the KV cache"); so there they lie side by side, [slots, length, lanes].
"""

from enum import Enum

import torch
from torch import Tensor

LANES = 128


class CacheLayout(Enum):
    """HEADS: always [slots, length, heads, head_dim], right for a CPU. LANES: side by side unless heads fill lanes."""

    HEADS = "heads"
    LANES = "lanes"

    def shape(self, heads: int, head_dim: int) -> tuple[int, ...]:
        """The dimensions after slots and length."""
        if self is CacheLayout.HEADS or head_dim % LANES == 0:
            return heads, head_dim
        return (-(-heads * head_dim // LANES) * LANES,)


def laid_out(new: Tensor, cache: Tensor) -> Tensor:
    """`new` [rows, queries, heads, head_dim] in the layout of `cache`, [rows, queries, ...]; spare lanes are zero."""
    if cache.dim() != 3:
        return new
    side_by_side = new.flatten(2)
    return torch.nn.functional.pad(side_by_side, (0, cache.shape[2] - side_by_side.shape[2]))


def to_lanes(query: Tensor, key_value_heads: int, lanes: int) -> Tensor:
    """Puts each query where its key head lies, zeros elsewhere, so that it meets the cache as it lies.

    Args:
        query: [rows, heads, queries, head_dim]; heads that follow each other share a key head.

    Returns:
        [rows, heads, queries, lanes].
    """
    heads, head_dim = query.shape[1], query.shape[3]
    own = own_head(heads, key_value_heads, query.device)
    spread = torch.where(own, query.unsqueeze(3), torch.zeros((), dtype=query.dtype, device=query.device))
    return torch.nn.functional.pad(spread.flatten(3), (0, lanes - key_value_heads * head_dim))


def from_lanes(mixed: Tensor, key_value_heads: int, head_dim: int) -> Tensor:
    """The inverse for values: of [rows, heads, queries, lanes], each head's own [rows, heads, queries, head_dim]."""
    used = mixed[..., : key_value_heads * head_dim]
    by_head = used.reshape(*used.shape[:3], key_value_heads, head_dim)
    own = own_head(mixed.shape[1], key_value_heads, mixed.device)
    return torch.where(own, by_head, torch.zeros((), dtype=mixed.dtype, device=mixed.device)).sum(dim=3)


def own_head(heads: int, key_value_heads: int, device: torch.device) -> Tensor:
    """[1, heads, 1, key_value_heads, 1] bool, True where a query head uses a key head."""
    first_user = torch.arange(key_value_heads, dtype=torch.int32, device=device) * (heads // key_value_heads)
    head = torch.arange(heads, dtype=torch.int32, device=device).unsqueeze(1)
    own = (head >= first_user) & (head < first_user + heads // key_value_heads)
    return own.view(1, heads, 1, key_value_heads, 1)
