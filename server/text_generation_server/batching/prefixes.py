"""Which tokens each slot holds, so that a prompt need not be computed again where its beginning is at hand."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.contract import Prefix
from text_generation_server.engine.rings import Ring

Variant = tuple[str | None, int]
"""What keys and values depend on beside tokens and positions: the adapter, and `RotaryLengths.family`."""

BASE: Variant = (None, 0)
"""Of the model without adapters."""

WORTH_WAITING = 64
"""A prompt waits for another one that is being filled if it will find that many tokens more then."""

WORTH_KEEPING = 16
"""A free slot that holds fewer tokens behind a shared beginning is given away instead of being copied."""


@dataclass(frozen=True)
class Found:
    """The beginning of a prompt in the slots.

    Attributes:
        prefix: the slot that holds most of it; None if none does.
        more_is_coming: much more will be at hand when the slots that are filling have their prompts.
    """

    prefix: Prefix | None
    more_is_coming: bool


class PrefixIndex:
    """The tokens in the cache, by slot, whether it is live, filling or free.

    A table and not a tree: there is nothing to keep in order when slots are given away, and comparing is quick
    (`benchmarks.prompt_speed` prints how quick).

    Attributes:
        hits, hit_tokens: prompts that began with what a slot held, and how many tokens that were.
    """

    def __init__(self, slots: int, max_length: int, ring: Ring | None = None) -> None:
        """`ring`: as EngineInfo has it."""
        self._ring = ring
        self._tokens: NDArray[np.int32] = np.zeros((slots, max_length), np.int32)
        self._held = np.zeros(slots, np.int64)
        self._promised = np.zeros(slots, np.int64)
        # Of rings: what is before was not copied.
        self._first = np.zeros(slots, np.int64)
        self._next = np.zeros(slots, np.int64)
        self._variants: list[Variant] = [BASE] * slots
        self._touched = [0] * slots
        self._clock = 0
        self.hits = 0
        self.hit_tokens = 0

    def find(self, token_ids: Sequence[int], variant: Variant) -> Found:
        """What is at hand of the beginning of a prompt, computed in the same variant.

        The last token of a prompt never counts: the model has to run on it.
        """
        common = self._common(token_ids, variant)
        now, then = (self._at_hand(common, lengths) for lengths in (self._held, self._promised))
        slot = int(now.argmax())
        longest = int(now[slot])
        return Found(Prefix(slot, longest) if longest else None, int(then.max()) >= longest + WORTH_WAITING)

    def choose(self, free: Collection[int], prefix: Prefix | None) -> int:
        """The free slot that should be given away: the one whose tokens were of no use for the longest time.

        The slot of the prefix itself, if it is free and would lose hardly anything.
        """
        if prefix is not None and prefix.slot in free:
            if self._held[prefix.slot] - prefix.length < WORTH_KEEPING or len(free) == 1:
                return prefix.slot
            free = [slot for slot in free if slot != prefix.slot]
        return min(free, key=lambda slot: (self._touched[slot], slot))

    def begin(self, slot: int, token_ids: Sequence[int], variant: Variant, prefix: Prefix | None) -> None:
        """The slot is to hold this prompt, and holds the prefix already."""
        count = len(token_ids)
        self._tokens[slot, :count] = token_ids
        self._held[slot] = prefix.length if prefix is not None else 0
        self._first[slot] = self._first_seen(prefix.length) if prefix is not None else 0
        self._promised[slot] = count - 1
        self._next[slot] = count
        self._variants[slot] = variant
        self._touch(slot)
        if prefix is not None:
            self.hits += 1
            self.hit_tokens += prefix.length
            self._touch(prefix.slot)

    def extended(self, slot: int, held: int) -> None:
        """So much of its prompt is in the slot."""
        self._held[slot] = held

    def chose(self, slot: int, token_id: int) -> None:
        """A step wrote the token before this one."""
        place = self._next[slot]
        self._held[slot] = self._promised[slot] = place
        if place < self._tokens.shape[1]:
            self._tokens[slot, place] = token_id
            self._next[slot] = place + 1

    def missing(self, slot: int) -> int:
        """How many tokens of its prompt are not in the slot, without the last one."""
        return int(self._promised[slot] - self._held[slot])

    def released(self, slot: int) -> None:
        """No more comes to what the slot holds."""
        self._promised[slot] = self._held[slot]
        self._touch(slot)

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._touched[slot] = self._clock

    def _at_hand(self, common: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens of the common beginning each slot would give, if it held so many of its tokens."""
        common = np.minimum(common, held)
        if self._ring is None:
            return common
        seen = np.array([self._first_seen(int(tokens)) for tokens in common])
        kept = np.array([self._ring.first_kept(int(tokens)) for tokens in held])
        return np.where(seen >= np.maximum(kept, self._first), common, 0)

    def _first_seen(self, tokens: int) -> int:
        return self._ring.first_seen(tokens, self._tokens.shape[1]) if self._ring else 0

    def _common(self, token_ids: Sequence[int], variant: Variant) -> NDArray[np.int64]:
        """How many of the first tokens of the prompt, without its last, stand in each slot's row, held or not."""
        wanted = np.asarray(token_ids[:-1], np.int32)
        differs = self._tokens[:, : len(wanted)] != wanted
        # The first difference; a difference behind the end for rows that have none.
        common: NDArray[np.int64] = np.pad(differs, ((0, 0), (0, 1)), constant_values=True).argmax(axis=1)
        common[[held != variant for held in self._variants]] = 0
        return common
