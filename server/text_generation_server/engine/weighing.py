"""How scores of attention become weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weighing:
    """What attention does beside its two products.

    Attributes:
        key_value_heads: how many there are; query heads share them in equal parts.
        softcap: bound of the scores by tanh (Gemma 2).
        sinks: [heads], a score of each head for looking nowhere (GPT-OSS).
        key_scales, value_scales: [slots or rows, key_value_heads, length], what keys and values lack; None: nothing.
    """

    key_value_heads: int
    softcap: float | None
    sinks: Tensor | None
    key_scales: Tensor | None
    value_scales: Tensor | None

    def shaped(self, sinks: Callable[[Tensor], Tensor], scales: Callable[[Tensor], Tensor]) -> "Weighing":
        """With those tensors that there are in the form of the scores, as `weigh` takes them."""
        return replace(
            self,
            sinks=None if self.sinks is None else sinks(self.sinks),
            key_scales=None if self.key_scales is None else scales(self.key_scales),
            value_scales=None if self.value_scales is None else scales(self.value_scales),
        )

    def weigh(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Softmax over the keys that may be seen, float32; the sinks, [..., 1, 1], take their part of it.

        A head of keys is scaled by way of its scores, and one of values by way of its weights, which are fewer.

        Args:
            scores: [..., queries, keys].
            mask: bool, of a shape that fits.
        """
        scores = scores.to(torch.float32)
        if self.key_scales is not None:
            scores = scores * self.key_scales
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = torch.where(mask, scores, torch.finfo(torch.float32).min)
        if self.sinks is None:
            weights = torch.softmax(scores, dim=-1)
        else:
            nowhere = self.sinks.to(torch.float32).expand(*scores.shape[:-1], 1)
            weights = torch.softmax(torch.cat([scores, nowhere], dim=-1), dim=-1)[..., :-1]
        return weights if self.value_scales is None else weights * self.value_scales
