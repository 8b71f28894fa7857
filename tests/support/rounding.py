"""transformers with keys and values that are rounded on their way into its cache: the oracle of caches in one byte."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from support.checkpoints import Expected
from text_generation_server.engine.cache_dtype import CacheDtype


def rounded(numbers: Tensor, dtype: CacheDtype) -> Tensor:
    """What is left of keys or values [rows, heads, queries, head_dim], written down once more."""
    if dtype is CacheDtype.INT8:
        scale = (numbers.abs().amax(-1, keepdim=True) * 128 / 127).bfloat16().float() / 128
        return (numbers / scale.clamp(min=1e-30)).round().clamp(-127, 127) * scale
    float8 = {
        CacheDtype.FP8_E4M3FN: torch.float8_e4m3fn,
        CacheDtype.FP8_E5M2: torch.float8_e5m2,
    }[dtype]
    largest = torch.finfo(float8).max
    return numbers.clamp(-largest, largest).to(float8).to(numbers.dtype)


class RoundingCache(DynamicCache):  # type: ignore[misc]
    """Keeps rounded keys and values, and shows these to all queries."""

    def __init__(self, dtype: CacheDtype, config: Any) -> None:
        super().__init__(config=config)
        self._dtype = dtype

    def update(self, keys: Tensor, values: Tensor, *arguments: Any, **keywords: Any) -> Any:
        return super().update(
            rounded(keys, self._dtype), rounded(values, self._dtype), *arguments, **keywords
        )


def follow_rounded(model: Any, prompt: list[int], tokens: list[int], dtype: CacheDtype) -> Expected:
    """As `checkpoints.follow`."""
    cache = RoundingCache(dtype, model.config)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]]), past_key_values=cache).logits
    scores = torch.log_softmax(logits[0, len(prompt) - 1 :].float(), dim=-1)
    return Expected(scores.argmax(dim=-1).tolist(), scores.amax(dim=-1).tolist())
