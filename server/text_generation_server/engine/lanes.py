"""Heads that lie side by side in the lanes of a TPU, see `layout`: into that form, and back."""

import torch
from torch import Tensor


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
