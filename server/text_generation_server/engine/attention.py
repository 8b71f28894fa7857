"""Attention over a static cache, registered with transformers under one name.

transformers' models call a registered mask function once per forward and a registered attention function
once per layer; so an unmodified model runs on our cache layout, with masks that know each row's position.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from text_generation_server.engine import kernels
from text_generation_server.engine.cache_dtype import UNIT
from text_generation_server.engine.lanes import from_lanes, to_lanes
from text_generation_server.engine.marks import QUERIES, mark
from text_generation_server.engine.narrow import noted, widened
from text_generation_server.engine.weighing import Weighing
from text_generation_server.errors import UnsupportedModelError

IMPLEMENTATION = "static_slots"

# Arguments that models pass to every attention function and that change nothing here: the window is
# already in the mask, dropout is for training, and positions were applied before.
WITHOUT_EFFECT = {"dropout", "sliding_window", "position_ids", "use_cache", "is_causal", "cache_position"}


@dataclass
class WindowsFound:
    """The layers whose queries see no more than a window.

    Attributes:
        masks: those that keep one, with its size.
        layers: by index, the window.
    """

    masks: list[tuple[Tensor, int]] = field(default_factory=list)
    layers: dict[int, int] = field(default_factory=dict)

    def meet(self, module: nn.Module, mask: Tensor) -> None:
        """Takes in with which mask a layer is called."""
        layer = getattr(module, "layer_idx", None)
        for windowed, window in self.masks:
            if mask is windowed and isinstance(layer, int):
                self.layers[layer] = window


_windows: ContextVar[WindowsFound | None] = ContextVar("windows", default=None)


@contextmanager
def finding_windows() -> Iterator[WindowsFound]:
    """Within, a call of the model shows which of its layers keep a window, and which."""
    found = WindowsFound()
    token = _windows.set(found)
    try:
        yield found
    finally:
        _windows.reset(token)


@dataclass(frozen=True)
class Pieces:
    """Of prompts. `slots`, `ends`: [rows] int32, see `kernels.attend_pieces`; `total`: how many slots there are."""

    slots: Tensor
    ends: Tensor
    total: int


_pieces: ContextVar[Pieces | None] = ContextVar("pieces", default=None)


@contextmanager
def over_pieces(slots: Tensor, ends: Tensor, total: int) -> Iterator[None]:
    """Within, the model is called on pieces of prompts, and `attend` is given the whole cache; see `Pieces`."""
    token = _pieces.set(Pieces(slots, ends, total))
    try:
        yield
    finally:
        _pieces.reset(token)


def rows_of_pieces(view: Tensor, rows: int, heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """What `SlotLayer.update` returned, as numbers [rows, length, heads, head_dim]; of all slots, where it returned
    these, those of the rows."""
    narrow, pieces = noted(view), _pieces.get()
    view = unpaired(view, pieces.total if pieces else rows)
    if pieces is not None:
        view = view[pieces.slots]
        narrow = narrow.of_rows(pieces.slots) if narrow else None
    if view.dim() == 3:
        view = view[..., : heads * head_dim].reshape(*view.shape[:2], heads, head_dim)
    return view if narrow is None else widened(view, narrow, dtype)


def unpaired(view: Tensor, slots: int) -> Tensor:
    """Keys or values of so many slots, [slots, length, ...], also where two of them share a row, see `layout`."""
    if view.shape[0] == slots:
        return view
    rows, length, lanes = view.shape
    return view.reshape(rows, length, 2, lanes // 2).transpose(1, 2).reshape(slots, length, lanes // 2)


def register() -> None:
    """Makes `attn_implementation="static_slots"` known to transformers; may be called again."""
    AttentionMaskInterface.register(IMPLEMENTATION, build_mask)
    AttentionInterface.register(IMPLEMENTATION, attend)


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    device: torch.device | str = "cpu",
    local_size: int | None = None,
    config: object = None,
    **_: object,
) -> Tensor:
    """Evaluates the model's own mask rule (causal, sliding window, ...) at each row's own position.

    Args:
        q_offset: [batch_size] int32, the position of the first query of each row, or one position for all.
        kv_offset: what raises indices of keys to positions, see `CacheAccess.seen`.
        local_size: the window or the chunk that the rule keeps.
        config: of the model.
        mask_function: elementwise rule of (batch, head, query position, key position), built by the model.

    Returns:
        [batch_size or 1, 1, q_length, kv_length] bool, True where a query may look.
    """
    offset = q_offset.reshape(-1, 1, 1, 1) if isinstance(q_offset, Tensor) else q_offset
    queries = torch.arange(q_length, dtype=torch.int32, device=device).view(1, 1, -1, 1) + offset
    keys = torch.arange(kv_length, dtype=torch.int32, device=device).view(1, 1, 1, -1) + kv_offset
    rows = torch.arange(batch_size, dtype=torch.int32, device=device).view(-1, 1, 1, 1)
    mask = mask_function(rows, torch.zeros_like(rows), queries, keys)
    if isinstance(kv_offset, Tensor):
        mask = mask & (keys >= 0)
    # Chunks are no windows: what a query sees of its chunk grows with its position.
    is_window = local_size is not None and local_size == getattr(config, "sliding_window", None)
    if is_window and (found := _windows.get()) is not None:
        found.masks.append((mask, int(local_size or 0)))
    return mask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Grouped-query attention with keys and values as they lie in the cache.

    Args:
        query: [rows, heads, queries, head_dim].
        key, value: [rows, length, key_value_heads, head_dim], [rows, length, lanes] or [rows / 2, length, lanes], see
            `layout`; within `over_pieces` all slots instead of rows.
        attention_mask: [rows or 1, 1, queries, length] bool.
        scaling: of the scores, one for all or [rows or 1, 1, queries, 1]; default 1 / sqrt(head_dim).
        softcap: bound of the scores by tanh (Gemma 2).
        s_aux: attention sinks, [heads]: a score of each head for looking nowhere (GPT-OSS).

    Returns:
        [rows, queries, heads, head_dim], and None for the weights that nobody asks for.

    Raises:
        NotImplementedError: the model passes an argument that would change the result.
    """
    for name, argument in others.items():
        if argument is not None and argument is not False and name not in WITHOUT_EFFECT:
            raise NotImplementedError(
                f"attention argument {name!r} of {type(module).__name__} is not supported"
            )
    if (found := _windows.get()) is not None:
        found.meet(module, attention_mask)
    key_value_heads = key_value_heads_of(module, query) if key.dim() == 3 else key.shape[2]
    narrow_keys, narrow_values = noted(key), noted(value)
    if (narrow_keys is None or narrow_values is None) and torch.int8 in (key.dtype, value.dtype):
        raise UnsupportedModelError(
            f"{type(module).__name__} changes keys or values that come from the cache, which must then have the dtype "
            "of the model: leave --kv-cache-dtype out"
        )
    weighing = Weighing(
        key_value_heads,
        softcap,
        s_aux,
        narrow_keys.scales if narrow_keys else None,
        narrow_values.scales if narrow_values else None,
    )
    query = mark(query, QUERIES) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if weighing.key_scales is not None:
        query = query * UNIT
    if (pieces := _pieces.get()) is not None:
        mixed = kernels.attend_pieces(
            query,
            key,
            value,
            attention_mask,
            pieces.slots,
            pieces.ends,
            weighing,
            paired=key.shape[0] != pieces.total,
        )
    else:
        function = attend_lanes if key.dim() == 3 else attend_heads
        mixed = function(
            query,
            key if narrow_keys is None else key.to(query.dtype),
            value if narrow_values is None else value.to(query.dtype),
            attention_mask,
            weighing,
        )
    return mixed if weighing.value_scales is None else mixed * UNIT, None


def attend_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, weighing: Weighing) -> Tensor:
    """Queries [rows, heads, queries, head_dim], already scaled, over keys and values [rows, length, heads, head_dim].

    Returns [rows, queries, heads, head_dim].
    """
    rows, heads, queries, head_dim = query.shape
    key_value_heads = weighing.key_value_heads
    # Query heads that share a key head form a group, so keys are never repeated in memory.
    grouped = query.reshape(rows, key_value_heads, heads // key_value_heads, queries, head_dim)
    scores = torch.einsum("bhgqd,bshd->bhgqs", grouped, key)
    shaped = weighing.shaped(
        lambda sinks: sinks.view(key_value_heads, -1, 1, 1), lambda scales: scales[:, :, None, None]
    )
    weights = shaped.weigh(scores, mask.unsqueeze(2)).to(query.dtype)
    mixed = torch.einsum("bhgqs,bshd->bqhgd", weights, value)
    return mixed.reshape(rows, queries, heads, value.shape[3])


def attend_lanes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, weighing: Weighing) -> Tensor:
    """The same for keys and values that lie side by side: the cache is never taken apart.

    It multiplies with all key heads where one would do, which costs a decode step nothing: that waits for memory. Two
    rows that share one of the cache are to it a row with twice the heads.
    """
    rows, heads, queries, head_dim = query.shape
    shared = rows // key.shape[0]

    def of_queries(scales: Tensor) -> Tensor:
        by_head = of_query_heads(scales, heads)
        return by_head.reshape(rows // shared, shared * heads, *by_head.shape[2:])

    if shared > 1:
        query = query.reshape(rows // shared, shared * heads, queries, head_dim)
        # A query has zeros where the other slot's keys lie, which no number but infinity would survive.
        key = torch.where(key.abs() < float("inf"), key, torch.zeros((), dtype=key.dtype, device=key.device))
        mask = mask.expand(rows, heads, -1, -1).reshape(rows // shared, shared * heads, *mask.shape[2:])
    key_value_heads = shared * weighing.key_value_heads
    scores = torch.einsum("bhqw,bsw->bhqs", to_lanes(query, key_value_heads, key.shape[2]), key)
    shaped = weighing.shaped(lambda sinks: sinks.repeat(shared).view(-1, 1, 1), of_queries)
    weights = shaped.weigh(scores, mask).to(query.dtype)
    mixed = from_lanes(torch.einsum("bhqs,bsw->bhqw", weights, value), key_value_heads, head_dim)
    return mixed.reshape(rows, heads, queries, head_dim).transpose(1, 2)


def of_query_heads(scales: Tensor, heads: int) -> Tensor:
    """Scales [rows, key_value_heads, length] for each query head, [rows, heads, 1, length]."""
    rows, key_value_heads, length = scales.shape
    repeated = scales.unsqueeze(2).expand(rows, key_value_heads, heads // key_value_heads, length)
    return repeated.reshape(rows, heads, 1, length)


def key_value_heads_of(module: nn.Module, query: Tensor) -> int:
    """Of the layer that `module` is, where the cache does not show it.

    The number of query heads to a key head is the module's `num_key_value_groups`, as in transformers' own
    functions; modules without it have as many key heads as query heads.
    """
    return query.shape[1] // int(getattr(module, "num_key_value_groups", 1))
