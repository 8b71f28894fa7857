"""How many steps the device takes before it tells the host: several, where it would wait for the host otherwise."""

from collections.abc import Collection

from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.step_times import StepKind, StepTimes

MOST_SECONDS = 0.025
"""That one program may take. What it chose arrives at once, and a prompt that comes meanwhile may wait for two of
them."""

WORTHWHILE = 0.8
"""A step without the host may take that part of a plain one at most."""

FORGET_AFTER = 256
"""Decisions, after which both kinds are timed anew: with other requests the host's work and the device's differ."""


class StepsAhead:
    """Decides how many steps the next program takes.

    The time between two plain steps is that of the device, or that of the host's work on a step if it is longer:
    text, the answer, the router's next call, and starting programs. Within a program the device takes its own time.

    Attributes:
        taken: steps of programs that took several.
    """

    def __init__(self, most: int, times: StepTimes) -> None:
        """`most`: see `EngineInfo.steps`."""
        self.taken = 0
        self._most = most
        self._times = times
        self._decisions = 0

    @property
    def is_on(self) -> bool:
        return self._most > 1

    def count(self, owners: Collection[RequestState]) -> int:
        """By what is known of them; 1 for a plain step."""
        plain, looped = self._times.of(StepKind.PLAIN), self._times.of(StepKind.LOOPED)
        if not self.is_on or plain is None:
            return 1
        self._decisions += 1
        if self._decisions >= FORGET_AFTER:
            self._decisions = 0
            self._times.forget(StepKind.PLAIN)
            self._times.forget(StepKind.LOOPED)
            return 1
        seconds = plain if looped is None else looped
        if looped is not None and looped > WORTHWHILE * plain:
            return 1
        bounds = [max(owner.tokens_left for owner in owners), int(MOST_SECONDS / seconds), self._most]
        bounds += [left for owner in owners if (left := owner.tokens_until_recomputed) is not None]
        return max(1, min(bounds))
