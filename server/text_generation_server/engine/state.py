"""Everything that lives on the device between two programs. Shapes and host values; no torch here."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.cache_dtype import SCALE_DTYPE, CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.program import STATE, Spec
from text_generation_server.engine.rings import Ring
from text_generation_server.sampling.parameters import SamplingParameters

# Columns of the rows `floats` and `integers`: a request's sampling parameters, one row per slot.
FLOAT_COLUMNS = ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty")
INTEGER_COLUMNS = ("top_k", "samples", "watermark", "seed_low", "seed_high")

HeadsAndDim = tuple[int, int]

SCALES = ("key_scales.", "value_scales.")
"""Of keys and values in int8: how their names begin."""

ITEM_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int32": 4,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    # Two share a byte.
    "int4": 0.5,
}


@dataclass(frozen=True)
class BatchShape:
    """The static shape of a batch, and how its cache lies.

    Attributes:
        slots: number of rows.
        length: tokens of a slot.
        vocabulary: of the logits.
        layers: per layer of the model, ((key_heads, key_dim), (value_heads, value_dim)).
        layout: of the cache on the device.
        dtype: of the cache and of logits, as Spec has it.
        cache_dtype: of keys and values, if it is another.
        adapters: the model takes the index of an adapter for each row.
        by_length: the model takes the length of the whole prompt for each piece, see `RotaryLengths`.
        chunk: tokens of the largest piece of a prompt, see `buckets.piece_shapes`.
        drafts: tokens of each slot that one step may verify, see `programs.steps.verify`; 0: there are none.
        steps: that one program may take without the host, see `catalogue.parts`; 0: there are no such programs.
        window: how many positions a query of a sliding layer sees.
        sliding: the layers that see no more, by index.
        experts: the model has layers of experts.
        pairs: two slots share a row of the cache where they fill lanes together, see `layout`; their number is even.
    """

    slots: int
    length: int
    vocabulary: int
    layers: tuple[tuple[HeadsAndDim, HeadsAndDim], ...]
    layout: CacheLayout
    dtype: str
    cache_dtype: CacheDtype | None = None
    adapters: bool = False
    by_length: bool = False
    chunk: int = 128
    drafts: int = 0
    steps: int = 0
    window: int = 0
    sliding: tuple[int, ...] = ()
    experts: bool = False
    pairs: bool = False

    @property
    def parks(self) -> bool:
        """Whether a slot is parked when it is released, see `programs.park`."""
        return self.experts or self.ring is not None

    @property
    def ring(self) -> Ring | None:
        """Of sliding layers; None if there are none, or if they keep the whole length, which is not longer."""
        ring = Ring(self.window, min(self.chunk, self.length))
        return ring if self.sliding and ring.size < self.length else None

    def with_layers(self, layers: "tuple[tuple[HeadsAndDim, HeadsAndDim], ...]") -> "BatchShape":
        """The same of a model with other layers."""
        return replace(self, layers=layers)

    def cache(self) -> dict[str, Spec]:
        """Keys and values of each layer in turn, [slots, length or size of the ring, ...] or [slots / 2, ...], see
        `layout`.

        In int8, each is followed by its scales, [slots, heads, length or size of the ring]: with the positions last,
        where a TPU does not pad them, and where attention has them.

        A forward meets them in this order, and the compiler pairs a donated buffer with the output of equal size by
        order: so each becomes its own successor.
        """
        specs = {}
        dtype = self.dtype if self.cache_dtype is None else self.cache_dtype.on_device
        for index, (keys, values) in enumerate(self.layers):
            # Attention over lanes takes the size of a value's heads from the queries, and so from the keys.
            layout = self.layout if keys == values else CacheLayout.HEADS
            length = self.kept(index)
            for name, scales, (heads, dim) in (
                ("keys", "key_scales", keys),
                ("values", "value_scales", values),
            ):
                dimensions = (self.slots, length, *layout.shape(heads, dim))
                if self.is_paired(index):
                    dimensions = (self.slots // 2, length, 2 * heads * dim)
                specs[f"{name}.{index}"] = Spec(dimensions, dtype, STATE)
                if self.cache_dtype is not None and self.cache_dtype.is_scaled:
                    specs[f"{scales}.{index}"] = Spec((self.slots, heads, length), SCALE_DTYPE, STATE)
        return specs

    def is_paired(self, layer: int) -> bool:
        """Whether two slots share a row of its keys, and of its values."""
        keys, values = self.layers[layer]
        return self.pairs and keys == values and self.layout.fills_in_pairs(*keys)

    def kept(self, layer: int) -> int:
        """How many positions of a slot a layer keeps."""
        ring = self.ring
        return ring.size if ring and layer in self.sliding else self.length

    def rows(self) -> dict[str, Spec]:
        """What a slot needs beside its cache, one row per slot.

        tokens [slots]: the last chosen token, not yet in the cache; positions [slots]: where that token goes, or the
        length of a slot if the slot is parked, see `programs.seat`; floats
        and integers: the columns above; counts [slots, vocabulary]: how often each token occurs in prompt and output,
        not kept up to date while no live slot needs it, see `programs.choose_next`.
        """
        return {
            "tokens": Spec((self.slots,), "int32", STATE),
            "positions": Spec((self.slots,), "int32", STATE),
            "floats": Spec((self.slots, len(FLOAT_COLUMNS)), "float32", STATE),
            "integers": Spec((self.slots, len(INTEGER_COLUMNS)), "int32", STATE),
            "counts": Spec((self.slots, self.vocabulary), "int32", STATE),
        }

    def position_bytes(self, *, sliding: bool = False) -> int:
        """Keys and values of one token in all layers, or in the sliding ones alone."""
        return int(
            sum(
                math.prod(spec.shape) // (self.slots * self.kept(layer)) * ITEM_BYTES[spec.dtype]
                for name, spec in self.cache().items()
                if (layer := int(name.partition(".")[2])) in self.sliding or not sliding
            )
        )

    def to_json(self) -> dict[str, Any]:
        cache_dtype = None if self.cache_dtype is None else self.cache_dtype.value
        return {**self.__dict__, "layout": self.layout.value, "cache_dtype": cache_dtype}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "BatchShape":
        layers = tuple((tuple(keys), tuple(values)) for keys, values in data["layers"])
        return BatchShape(
            **{
                **data,
                "layout": CacheLayout(data["layout"]),
                "cache_dtype": None if data["cache_dtype"] is None else CacheDtype(data["cache_dtype"]),
                "layers": layers,
                "sliding": tuple(data["sliding"]),
            }
        )


def positions_dimension(name: str) -> int:
    """Of an array of the cache: which of its dimensions is that of positions."""
    return 2 if name.startswith(SCALES) else 1


def initial_rows(shape: BatchShape) -> dict[str, NDArray[Any]]:
    """Rows of slots that nobody has used, on the host."""
    neutral = SamplingParameters()
    rows: dict[str, NDArray[Any]] = {
        name: np.zeros(spec.shape, dtype=spec.dtype) for name, spec in shape.rows().items()
    }
    rows["positions"][:] = shape.length
    rows["floats"][:] = float_parameters(neutral)
    rows["integers"][:] = integer_parameters(neutral)
    return rows


def float_parameters(sampling: SamplingParameters) -> NDArray[np.float32]:
    """[1, len(FLOAT_COLUMNS)]."""
    return np.array([[getattr(sampling, name) for name in FLOAT_COLUMNS]], dtype=np.float32)


def integer_parameters(sampling: SamplingParameters) -> NDArray[np.int32]:
    """[1, len(INTEGER_COLUMNS)]; the seed's halves are kept bit by bit."""
    low, high = sampling.seed & 0xFFFFFFFF, sampling.seed >> 32
    values = (sampling.top_k, int(sampling.samples), int(sampling.watermark), as_signed(low), as_signed(high))
    return np.array([values], dtype=np.int32)


def as_signed(bits: int) -> int:
    """The int32 with the bits of an unsigned 32-bit integer."""
    return bits - 2**32 if bits >= 2**31 else bits
