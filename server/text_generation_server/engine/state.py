"""Everything that lives on the device between two programs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_server.engine.layout import CacheLayout
from text_generation_server.sampling.parameters import SamplingParameters

# Columns of DecodeState.floats and DecodeState.integers: a request's sampling parameters, one row per slot.
FLOAT_COLUMNS = ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty")
INTEGER_COLUMNS = ("top_k", "samples", "watermark", "seed_low", "seed_high")


@dataclass
class SlotRows:
    """What a slot needs beside its cache, one row per slot.

    Attributes:
        tokens: [slots] int32, the last chosen token, not yet in the cache.
        positions: [slots] int32, where that token goes.
        floats: [slots, len(FLOAT_COLUMNS)] float32.
        integers: [slots, len(INTEGER_COLUMNS)] int32.
        counts: [slots, vocabulary] int32, how often each token occurs in prompt and output; not kept up to date
            while no live slot needs it, see `programs.choose_next`.
    """

    tokens: Tensor
    positions: Tensor
    floats: Tensor
    integers: Tensor
    counts: Tensor

    def flatten(self) -> list[Tensor]:
        return [self.tokens, self.positions, self.floats, self.integers, self.counts]


@dataclass
class DecodeState:
    """The decode state of a static batch. Programs take it, or a part of it, and return its successor.

    Attributes:
        cache: keys and values of layer 0, keys and values of layer 1, ...; [slots, length, ...] each, see
            `layout`. A forward meets them in this order, and the compiler pairs a donated buffer with the output
            of equal size by order: so each becomes its own successor.
    """

    cache: list[Tensor]
    rows: SlotRows

    def flatten(self) -> list[Tensor]:
        return [*self.cache, *self.rows.flatten()]

    @staticmethod
    def unflatten(tensors: list[Tensor]) -> "DecodeState":
        """The inverse of `flatten`."""
        return DecodeState(tensors[:-5], SlotRows(*tensors[-5:]))


@dataclass(frozen=True)
class CacheShape:
    """The shape of the KV cache of one model; sizes may differ between layers and between keys and values.

    Attributes:
        layers: per layer, ((key_heads, key_dim), (value_heads, value_dim)).
    """

    layers: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def initial_state(
    shape: CacheShape,
    layout: CacheLayout,
    slots: int,
    length: int,
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
) -> DecodeState:
    """An empty state. Tensors are made on the host and sent, so that no program has to fill them."""

    def cache(layout: CacheLayout, heads_and_dim: tuple[int, int]) -> Tensor:
        return torch.zeros((slots, length, *layout.shape(*heads_and_dim)), dtype=dtype).to(device)

    neutral = SamplingParameters()
    return DecodeState(
        cache=[
            # Attention over lanes takes the size of a value's heads from the queries, and so from the keys.
            cache(layout if keys == values else CacheLayout.HEADS, heads_and_dim)
            for keys, values in shape.layers
            for heads_and_dim in (keys, values)
        ],
        rows=SlotRows(
            tokens=torch.zeros(slots, dtype=torch.int32).to(device),
            positions=torch.zeros(slots, dtype=torch.int32).to(device),
            floats=float_parameters(neutral).expand(slots, -1).contiguous().to(device),
            integers=integer_parameters(neutral).expand(slots, -1).contiguous().to(device),
            counts=torch.zeros((slots, vocabulary), dtype=torch.int32).to(device),
        ),
    )


def float_parameters(sampling: SamplingParameters) -> Tensor:
    """[len(FLOAT_COLUMNS)] float32 on the host."""
    return torch.tensor([getattr(sampling, name) for name in FLOAT_COLUMNS], dtype=torch.float32)


def integer_parameters(sampling: SamplingParameters) -> Tensor:
    """[len(INTEGER_COLUMNS)] int32 on the host; the seed's halves are kept bit by bit."""
    low, high = sampling.seed & 0xFFFFFFFF, sampling.seed >> 32
    values = (sampling.top_k, int(sampling.samples), int(sampling.watermark), as_signed(low), as_signed(high))
    return torch.tensor(values, dtype=torch.int32)


def as_signed(bits: int) -> int:
    """The int32 with the bits of an unsigned 32-bit integer."""
    return bits - 2**32 if bits >= 2**31 else bits
