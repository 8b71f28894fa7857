"""How much memory a static batch takes, and which batches fit. Pure arithmetic, for the shard and for `--dry-run`."""

from dataclasses import dataclass

SPARE = 0.1
"""Part of the memory that is left to programs and intermediate results. `make tpu-check` (docs/performance.md) sees
7 % at most for a whole model; a machine's own use is not in it."""


@dataclass(frozen=True)
class MemoryNeed:
    """All in bytes.

    Attributes:
        weights: all parameters; 0 where they are in place already.
        position: keys and values of one token in all layers.
        slot: what a slot takes beside its cache: the counts of each token of the vocabulary.
    """

    weights: int
    position: int
    slot: int

    def cache(self, batch_size: int, length: int) -> int:
        """Keys and values of the whole batch."""
        return batch_size * length * self.position

    def total(self, batch_size: int, length: int) -> int:
        return self.weights + self.cache(batch_size, length) + batch_size * self.slot

    def fits(self, memory: int, batch_size: int, length: int) -> bool:
        """Whether it fits in so much memory, with SPARE left."""
        return self.total(batch_size, length) <= usable(memory)

    def largest_batch(self, memory: int, length: int) -> int:
        """The most slots of this length that fit; 0 if not even one does."""
        return max(0, (usable(memory) - self.weights) // (length * self.position + self.slot))

    def largest_length(self, memory: int, batch_size: int) -> int:
        """The longest slots of which so many fit; 0 if there is no room for two tokens."""
        length = ((usable(memory) - self.weights) // batch_size - self.slot) // self.position
        return length if length >= 2 else 0


def usable(memory: int) -> int:
    return int(memory * (1 - SPARE))


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
