"""What decode steps take, as the generator meets them: from one read to the next, the host's work included."""

from collections import deque
from enum import Enum

SAMPLES = 9
"""Of the latest steps of each kind. One may have met anything, which takes time and never saves any: so what a step
takes is told by the fast ones, the lower quartile."""

ENOUGH = 3
"""Steps of each kind that are timed before their time is believed. The first run of a program takes longer."""


class StepKind(Enum):
    """PLAIN: one token for each request. VERIFYING: it verifies drafts. LOOPED: one of several without the host."""

    PLAIN = "plain"
    VERIFYING = "verifying"
    LOOPED = "looped"


class StepTimes:
    """The latest steps of each kind."""

    def __init__(self) -> None:
        self._seconds: dict[StepKind, deque[float]] = {kind: deque(maxlen=SAMPLES) for kind in StepKind}
        self._last_read: float | None = None

    def of(self, kind: StepKind) -> float | None:
        """Seconds of one; None as long as too few were timed."""
        seconds = sorted(self._seconds[kind])
        return seconds[len(seconds) // 4] if len(seconds) >= ENOUGH else None

    def forget(self, kind: StepKind) -> None:
        """Steps of this kind are to be timed anew."""
        self._seconds[kind].clear()

    def interrupted(self) -> None:
        """The time until the next step is read is not that of a step alone."""
        self._last_read = None

    def read(self, kind: StepKind, started: float, now: float, steps: int = 1) -> None:
        """A program was read.

        Args:
            started, now: seconds, when it was started and read.
            steps: that it took.
        """
        last, self._last_read = self._last_read, now
        if kind is StepKind.LOOPED:
            # Nothing else was in flight.
            self._seconds[kind].append((now - started) / steps)
        elif last is not None and (kind is StepKind.VERIFYING or started < last):
            # Plain steps follow each other on the device.
            self._seconds[kind].append(now - last)
