"""How arrays lie on several chips: which dimension of each is split, by its name. Data; no torch and no JAX here.

A partition names, for each dimension of an array in turn, the axis of the mesh over which it is split, or None; what is
left out at its end is not split. What the host sends or reads is whole on each chip: sending a part of it to each
would cost more than it saves, and reading a split array would run a program of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

DATA_AXIS, MODEL_AXIS = AXES = ("data", "model")
"""Of the mesh. All chips of one replica stand on the axis of the model; there is one replica."""

Partition = tuple[str | None, ...]
WHOLE: Partition = ()


class CacheSplit(Enum):
    """Over what the KV cache is split: the key heads where each chip gets whole ones, else the slots."""

    HEADS = "heads"
    SLOTS = "slots"


VOCABULARY_DIMENSION = {"counts": 1, "logits": 1, "constrained": 1, "scores": 1}
"""Arrays over the vocabulary that stay on the chips, [rows, vocabulary]: the head makes them split, and what follows
computes on each chip with its part."""

CACHE_DIMENSION = {CacheSplit.HEADS: 2, CacheSplit.SLOTS: 0}
"""Of keys and values, [slots, length, heads, head_dim]."""

SCALES_DIMENSION = {CacheSplit.HEADS: 1, CacheSplit.SLOTS: 0}
"""Of their scales, [slots, heads, length]."""


MARKS: Mapping[CacheSplit, Mapping[str, Sequence[Sequence[int] | None]]] = {
    # All else follows from the weights.
    CacheSplit.HEADS: {"everywhere": (None,)},
    CacheSplit.SLOTS: {
        "everywhere": (None,),
        # Computed in parts, by outputs, and then whole on each chip.
        "projected": ((2,), None),
        # Each chip attends for its slots; where there are not as many rows, to its heads, or its tokens.
        "queries": ((0, 1, 2),),
        # Whole on each chip, so that each takes the inputs of which it has the weights.
        "mixed": (None,),
    },
}
"""What marks mean: in turn, the dimensions that may be split, or None for whole. See `engine.marks`."""


@dataclass(frozen=True)
class Sharding:
    """How one model and its static batch lie on the chips of a replica.

    Attributes:
        chips: over how many; 1 splits nothing.
        cache: over what keys and values are split.
        weights: by name, the dimensions that may be split, the best first; the others are whole on each chip.
    """

    chips: int = 1
    cache: CacheSplit = CacheSplit.HEADS
    weights: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def weight(self, name: str, shape: Sequence[int]) -> Partition:
        return self.first_that_divides(shape, self.weights.get(name, ()))

    def array(self, name: str, shape: Sequence[int]) -> Partition:
        """Of state, inputs and results of programs, by the names that `engine.programs` gives them."""
        # Without the place of a draft, as in "logits.1".
        kind = name.partition(".")[0]
        if kind in VOCABULARY_DIMENSION:
            return self.first_that_divides(shape, [VOCABULARY_DIMENSION[kind]])
        if kind in ("keys", "values"):
            return self.first_that_divides(shape, [CACHE_DIMENSION[self.cache]])
        if kind in ("key_scales", "value_scales"):
            return self.first_that_divides(shape, [SCALES_DIMENSION[self.cache]])
        return WHOLE

    def mark(self, name: str, shape: Sequence[int]) -> list[Partition]:
        """How a marked tensor lies, one after the other; empty: as the partitioner likes. See `engine.marks`."""
        if self.chips == 1:
            return []
        return [
            WHOLE if dimensions is None else self.first_that_divides(shape, dimensions)
            for dimensions in MARKS[self.cache].get(name, ())
        ]

    def first_that_divides(self, shape: Sequence[int], dimensions: Sequence[int]) -> Partition:
        """Splits the first of the dimensions whose size the chips divide; WHOLE if there is none."""
        if self.chips > 1:
            for dimension in dimensions:
                if shape[dimension] % self.chips == 0:
                    return (None,) * dimension + (MODEL_AXIS,)
        return WHOLE

    def parts(self, partition: Partition) -> int:
        """Into how many parts an array is split."""
        return self.chips if MODEL_AXIS in partition else 1


ONE_CHIP = Sharding()
