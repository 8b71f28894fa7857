"""How much memory a static batch takes, and which batches fit. Pure arithmetic, for the shard and for `--dry-run`."""

from dataclasses import dataclass, replace

PROGRAMS_GUESS = 0.1
"""Part of the memory that is left to programs and their intermediate results as long as nothing is compiled."""

RESERVE = 0.02
"""Part of the memory that stays free beside compiled programs: what requests send, and what the device itself needs."""

LARGEST_BATCH = 128

LONGEST = 2**30
"""Tokens of a slot: positions are int32. A model that keeps rings alone has room for any length."""


@dataclass(frozen=True)
class MemoryNeed:
    """In bytes; of several chips, on each.

    Attributes:
        weights: all parameters, adapters too.
        position: keys and values of one token in all layers.
        slot: what a slot takes beside its cache: the counts of each token of the vocabulary.
        programs: the code of all compiled programs, and the largest intermediate results of one; None: not known yet.
        chips: that share the model.
        multiple: the number of slots must be one of it.
        sliding: of `position`, what layers take that keep a ring, see `engine.rings`.
        ring: its positions, if that is less than the length of a slot.
    """

    weights: int
    position: int
    slot: int
    programs: int | None = None
    chips: int = 1
    multiple: int = 1
    sliding: int = 0
    ring: int = 0

    def with_programs(self, size: int) -> "MemoryNeed":
        return replace(self, programs=size)

    def cache(self, batch_size: int, length: int) -> int:
        """Keys and values of the whole batch."""
        return batch_size * self.slot_cache(length)

    def slot_cache(self, length: int) -> int:
        """Keys and values of one slot."""
        return (self.position - self.sliding) * length + self.sliding * min(length, self.ring)

    def total(self, batch_size: int, length: int) -> int:
        return self.weights + self.cache(batch_size, length) + batch_size * self.slot

    def usable(self, memory: int) -> int:
        """What of the memory weights and batch may take."""
        if self.programs is None:
            return int(memory * (1 - PROGRAMS_GUESS))
        return int(memory * (1 - RESERVE)) - self.programs

    def fits(self, memory: int, batch_size: int, length: int) -> bool:
        """Whether it fits in so much memory beside the programs."""
        return self.total(batch_size, length) <= self.usable(memory)

    def refusal(self, memory: int | None, batch_size: int, length: int) -> str:
        """Why it does not fit, and what would; `memory`: what there is for all of it, None if nobody knows."""
        asked = (
            f"HF_BATCH_SIZE={batch_size} and HF_SEQUENCE_LENGTH={length} need "
            f"{gibibytes(self.cache(batch_size, length))} of KV cache beside {gibibytes(self.weights)} of weights"
        )
        if self.programs is not None:
            asked += f" and {gibibytes(self.programs)} for programs and their intermediate results"
        if memory is None or self.fits(memory, batch_size, length):
            return f"{asked}, which does not fit in the memory of {self.device}: lower one of the two numbers"
        batch, longest = self.largest_batch(memory, length), self.largest_length(memory, batch_size)
        fitting = [f"HF_BATCH_SIZE={batch} with this length"] if batch else []
        fitting += [f"HF_SEQUENCE_LENGTH={longest} with this batch size"] if longest else []
        usable = self.usable(memory)
        if fitting:
            advice = " or ".join(fitting)
        elif 0 < usable <= self.weights:
            chips = -(-self.weights * self.chips // usable)
            advice = f"at least {chips} such chips (--num-shard), --quantize int8 or a smaller model"
        else:
            shorter = f"HF_BATCH_SIZE={self.multiple} and a shorter HF_SEQUENCE_LENGTH"
            advice = f"{shorter}, --quantize int8 or a smaller model"
        return f"{asked}, and {self.device} has {gibibytes(memory)} for all of it: {advice} would fit"

    @property
    def device(self) -> str:
        return "the device" if self.chips == 1 else f"each of {self.chips} chips"

    def largest_batch(self, memory: int, length: int) -> int:
        """The most slots of this length that fit; 0 if not even one does."""
        slots = max(0, (self.usable(memory) - self.weights) // (self.slot_cache(length) + self.slot))
        return slots // self.multiple * self.multiple

    def largest_length(self, memory: int, batch_size: int) -> int:
        """The longest slots of which so many fit, at most LONGEST; 0 if there is no room for two tokens."""
        room = (self.usable(memory) - self.weights) // batch_size - self.slot
        length = room // self.position
        if length > self.ring:
            whole, room = self.position - self.sliding, room - self.sliding * self.ring
            length = room // whole if whole else LONGEST
        return min(length, LONGEST) if length >= 2 else 0


def gibibytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
