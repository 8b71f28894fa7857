"""How the operations of `engine.kernels` are recorded: as calls by name, see `runtime.linking`."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_xla import _XLAC

from text_generation_server.engine import kernels  # noqa: F401 - defines the operations
from text_generation_server.lowering.lowered import KERNEL


def call(
    name: str, arguments: Sequence[Tensor], shape: Sequence[int], dtype: torch.dtype, **options: Any
) -> Tensor:
    """Records a call of the kernel; `options` travel as JSON beside its arguments."""
    results: list[Tensor] = _XLAC._xla_custom_call(
        list(arguments), KERNEL + name, [list(shape)], [dtype], False, json.dumps(options), 0, {}
    )
    return results[0]


@torch.library.impl("tpu_tgi::write_pieces", "XLA")
def write_pieces(
    cache: Tensor, new: Tensor, slots: Tensor, starts: Tensor, ring: bool, positions: int
) -> Tensor:
    arguments = (cache, new, slots, starts)
    return call("write_pieces", arguments, cache.shape, cache.dtype, ring=ring, positions=positions)


@torch.library.impl("tpu_tgi::attend_pieces", "XLA")
def attend_pieces(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    slots: Tensor,
    ends: Tensor,
    key_value_heads: int,
    softcap: float | None,
    sinks: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    paired: bool,
) -> Tensor:
    optional = {"sinks": sinks, "key_scales": key_scales, "value_scales": value_scales}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}
    rows, heads, queries, head_dim = query.shape
    # In lanes, keys and values have heads of one size, which the queries show.
    value_dim = values.shape[3] if values.dim() == 4 else head_dim
    return call(
        "attend_pieces",
        (query, keys, values, mask, slots, ends, *given.values()),
        (rows, queries, heads, value_dim),
        query.dtype,
        names=list(given),
        key_value_heads=key_value_heads,
        softcap=softcap,
        paired=paired,
    )


@torch.library.impl("tpu_tgi::write_steps", "XLA")
def write_steps(cache: Tensor, new: Tensor, places: Tensor) -> Tensor:
    return call("write_steps", (cache, new, places), cache.shape, cache.dtype)


@torch.library.impl("tpu_tgi::copy_slot", "XLA")
def copy_slot(
    cache: Tensor, slot: Tensor, source: Tensor, is_kept: Tensor, positions: int, paired: bool
) -> Tensor:
    arguments = (cache, slot, source, is_kept)
    return call("copy_slot", arguments, cache.shape, cache.dtype, positions=positions, paired=paired)


@torch.library.impl("tpu_tgi::experts", "XLA")
def experts(
    hidden: Tensor,
    chosen: Tensor,
    weights: Tensor,
    parameters: Sequence[Tensor],
    names: Sequence[str],
    inputs_first: bool,
    activation: str,
    alpha: float,
    limit: float,
) -> Tensor:
    return call(
        "experts",
        (hidden, chosen, weights, *parameters),
        hidden.shape,
        hidden.dtype,
        names=list(names),
        inputs_first=inputs_first,
        activation=activation,
        alpha=alpha,
        limit=limit,
    )
