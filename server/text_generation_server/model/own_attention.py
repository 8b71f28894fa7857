"""Models that compute attention with code of their own, older than transformers' interface for it.

They get keys and values as transformers' caches return them, [rows, heads, length, head_dim], and a mask that is
added to the scores. What else they assume of a cache with one position for all rows is put right by hooks.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionMaskInterface, Cache
from transformers.masking_utils import sliding_window_causal_mask_function

from text_generation_server.engine.attention import build_mask, rows_of_pieces
from text_generation_server.model.served import decoder_of

IMPLEMENTATION = "static_slots_added"

Keywords = dict[str, Any]


def uses_interface(model_class: Any) -> bool:
    """Whether a class of transformers calls the registered attention function."""
    return hasattr(sys.modules[model_class.__module__], "ALL_ATTENTION_FUNCTIONS")


def register() -> None:
    """Makes the mask known to transformers; may be called again."""
    AttentionMaskInterface.register(IMPLEMENTATION, added_mask)


def adapt(model: Any) -> None:
    """Lets a model run on our cache. Its buffers are there, and its parameters may not have data."""
    own = not uses_interface(type(model))
    if own:
        model.config._attn_implementation = IMPLEMENTATION
    decoder_of(model).register_forward_pre_hook(partial(on_static_cache, own), with_kwargs=True)
    for module in model.modules():
        adapter = ADAPTERS.get(type(module).__name__)
        if adapter is not None:
            adapter(module)


def added_mask(*arguments: Any, dtype: torch.dtype = torch.float32, **keywords: Any) -> Tensor:
    """Of the rule of `attention.build_mask`: 0 where a query may look, and else the lowest number of `dtype`."""
    seen = build_mask(*arguments, **keywords)
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
    return torch.where(seen, torch.zeros((), dtype=dtype, device=seen.device), lowest)


class StaticView(Cache):
    """A cache for one call of a model, whose length is a number that does not depend on any request.

    Models that are not given what they could compute from the length (positions, a mask without padding) make tensors
    of it, which must be of constant shape.
    """

    def __init__(self, cache: Cache, queries: int, own: bool) -> None:
        """`own`: keys and values are returned as transformers' own caches do."""
        super().__init__(layers=cache.layers)
        self._cache = cache
        self._queries = queries
        self._own = own

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._cache.update(key_states, value_states, layer_idx, *arguments, **keywords)
        if not self._own:
            return keys, values
        return heads_first(keys, key_states), heads_first(values, value_states)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self._cache.get_query_offset(layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions a query sees at most before those of this call."""
        return int(self.get_mask_sizes(self._queries, layer_idx)[0]) - self._queries


def heads_first(view: Tensor, new: Tensor) -> Tensor:
    """What `SlotLayer.update` returns, as [rows, heads, length, head_dim]; `new` has the heads of the model."""
    return rows_of_pieces(view, new.shape[0], new.shape[1], new.shape[3], new.dtype).transpose(1, 2)


def on_static_cache(
    own: bool, module: nn.Module, arguments: tuple[Any, ...], keywords: Keywords
) -> tuple[tuple[Any, ...], Keywords]:
    cache = keywords.get("past_key_values")
    if cache is None:
        return arguments, keywords
    ids = arguments[0] if arguments else keywords["input_ids"]
    return arguments, {**keywords, "past_key_values": StaticView(cache, ids.shape[1], own)}


def adapt_gpt_neo(module: Any) -> None:
    """Its masks are buffers over all positions, cut as if all rows were equally long: the window comes from here."""
    del module._buffers["bias"]
    module.bias = Unmasked(module)
    if module.attention_type == "local":
        module.register_forward_pre_hook(within_window, with_kwargs=True)


class Unmasked:
    """A mask that lets everything be seen, whatever is cut out of it; it is where the module is."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getitem__(self, _: object) -> Tensor:
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self._module.out_proj.bias.device)


def within_window(
    module: Any, arguments: tuple[Any, ...], keywords: Keywords
) -> tuple[tuple[Any, ...], Keywords]:
    cache, mask = keywords["layer_past"], keywords["attention_mask"]
    window = added_mask(
        mask.shape[0],
        mask.shape[2],
        mask.shape[3],
        sliding_window_causal_mask_function(module.config.window_size),
        cache.get_query_offset(module.layer_id),
        device=mask.device,
        dtype=mask.dtype,
    )
    return arguments, {**keywords, "attention_mask": window}


def adapt_falcon(module: Any) -> None:
    """ALiBi is in the mask already, and this path of its code would add it once more."""
    module.register_forward_pre_hook(without_alibi, with_kwargs=True)


def without_alibi(
    module: Any, arguments: tuple[Any, ...], keywords: Keywords
) -> tuple[tuple[Any, ...], Keywords]:
    alibi = keywords.get("alibi")
    return arguments, {**keywords, "alibi": None if alibi is None else torch.zeros_like(alibi)}


def adapt_llama4(module: Any) -> None:
    """Queries of layers without rotary grow with their position, which the model takes from the length of the cache."""
    if not module.attn_temperature_tuning or module.use_rope:
        return
    module.attn_temperature_tuning = False
    module.register_forward_pre_hook(partial(set_temperature, module.scaling), with_kwargs=True)


def set_temperature(scaling: float, module: Any, arguments: tuple[Any, ...], keywords: Keywords) -> None:
    """Makes the scale of the scores one for each query, [rows or 1, 1, queries, 1]."""
    hidden = keywords["hidden_states"]
    offset = keywords["past_key_values"].get_query_offset(module.layer_idx)
    positions = torch.arange(hidden.shape[1], dtype=torch.int32, device=hidden.device).view(1, 1, -1, 1)
    positions = positions + (offset.view(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset)
    grown = torch.log1p(torch.floor((positions.float() + 1.0) / module.floor_scale))
    module.scaling = ((grown * module.attn_scale + 1.0) * scaling).to(hidden.dtype)


ADAPTERS: Mapping[str, Callable[[Any], None]] = {
    "FalconAttention": adapt_falcon,
    "GPTNeoSelfAttention": adapt_gpt_neo,
    "Llama4TextAttention": adapt_llama4,
}
"""What else is to be done for an attention module of a class."""
