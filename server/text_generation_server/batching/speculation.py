"""Whether the next step verifies drafts: only if that brings more tokens than it costs time."""

from collections.abc import Mapping

from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.step_times import StepKind, StepTimes

FIRST_PRICE = 1.5
"""A step with drafts, in plain steps, until both have been timed."""

MARGIN = 1.05
"""What is expected must exceed the price by as much: a change of course costs a step that waits for the host."""

FORGET_AFTER = (64, 512)
"""Refusals for the measured price, after which it is measured again: it may have been wrong, or have changed. First
soon, then twice as many each time."""


class Speculation:
    """Decides which drafts are verified, and counts what becomes of them.

    A step with drafts costs the same however many rows have some, since its shape is static. So a batch pays it as a
    whole, and it is worth its price if all rows together are expected to get more tokens in that time.

    Attributes:
        drafted: tokens that were verified.
        accepted: those of them that were chosen.
    """

    def __init__(self, most: int, max_length: int, times: StepTimes) -> None:
        """
        Args:
            most: drafts of a row, see `EngineInfo.drafts`; 0: none.
            max_length: tokens of a slot.
        """
        self.drafted = 0
        self.accepted = 0
        self._most = most
        self._max_length = max_length
        self._times = times
        self._refusals = 0
        self._forget_after, self._at_most = FORGET_AFTER

    @property
    def is_on(self) -> bool:
        return self._most > 0

    def drafts(self, owners: Mapping[int, RequestState]) -> dict[int, list[int]]:
        """By slot, what the next step should verify, by what is known; empty if it should be a plain one."""
        drafts: dict[int, list[int]] = {}
        if not self.is_on:
            return drafts
        gain = 0.0
        for slot, owner in owners.items():
            proposed = owner.propose(self._most, self._max_length)
            if proposed:
                drafts[slot] = proposed
                gain += owner.expected(len(proposed))
        if not drafts:
            return drafts
        tokens = 1 + gain / len(owners)
        if tokens > MARGIN * self.price:
            return drafts
        if tokens > MARGIN * FIRST_PRICE:
            self._refusals += 1
            if self._refusals >= self._forget_after:
                self._times.forget(StepKind.VERIFYING)
                self._refusals = 0
                self._forget_after = min(2 * self._forget_after, self._at_most)
        return {}

    @property
    def price(self) -> float:
        """Of a step with drafts, in plain steps; what a plain step hides of the host's work is part of it."""
        plain, verifying = self._times.of(StepKind.PLAIN), self._times.of(StepKind.VERIFYING)
        return FIRST_PRICE if plain is None or verifying is None else verifying / plain

    def count(self, owner: RequestState, drafted: int, accepted: int) -> None:
        """So many drafts of a request were verified, and so many of them were chosen."""
        for counted in (self, owner):
            counted.drafted += drafted
            counted.accepted += accepted
