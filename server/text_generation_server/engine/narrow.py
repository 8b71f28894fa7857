"""Keys and values in one byte for a number: how they are made, and what attention makes of them, see `cache_dtype`."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from text_generation_server.engine.cache_dtype import LARGEST, SCALE_DTYPE, UNIT, CacheDtype


@dataclass(frozen=True)
class Narrow:
    """What is to be known of keys or values beside their bytes.

    Attributes:
        scales: of int8, [rows, heads, length], as many rows and positions as there are keys; None of fp8.
    """

    scales: Tensor | None

    def of_rows(self, rows: Tensor) -> "Narrow":
        return Narrow(None if self.scales is None else self.scales[rows])


_narrow: MutableMapping[Tensor, Narrow] = WeakTensorKeyDictionary()  # type: ignore[no-untyped-call]


def note(held: Tensor, narrow: Narrow) -> Tensor:
    """The same tensor, of which `noted` then knows: models hand it from the cache to attention as it is."""
    _narrow[held] = narrow
    return held


def noted(held: Tensor) -> Narrow | None:
    """None: keys or values are numbers."""
    return _narrow.get(held)


def narrowed(numbers: Tensor, dtype: CacheDtype) -> tuple[Tensor, Tensor | None]:
    """What is written of keys or values [rows, queries, heads, head_dim], and in int8 scales [rows, heads, queries].

    fp8 is made where it is written, see `kernels.write_steps`: torch_xla has no such tensors.
    """
    if not dtype.is_scaled:
        return numbers, None
    numbers = numbers.to(torch.float32)
    scales = (numbers.abs().amax(dim=3) / (UNIT * LARGEST)).to(getattr(torch, SCALE_DTYPE))
    units = scales.to(torch.float32) * UNIT
    units = torch.where(units > 0, units, torch.ones((), device=units.device))
    rounded = torch.round(numbers / units.unsqueeze(3))
    return torch.clamp(rounded, -LARGEST, LARGEST).to(torch.int8), scales.transpose(1, 2)


def widened(held: Tensor, narrow: Narrow, dtype: torch.dtype) -> Tensor:
    """The numbers that keys or values [rows, length, heads, head_dim] stand for."""
    numbers = held.to(dtype)
    if narrow.scales is None:
        return numbers
    return numbers * (narrow.scales.to(dtype) * UNIT).transpose(1, 2).unsqueeze(3)
