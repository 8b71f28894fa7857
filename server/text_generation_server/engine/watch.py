"""Sees that the device fails, hangs, or has nothing to do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Unread(Protocol):
    """The outcome of a program that was started.

    Attributes:
        started: when, by `time.monotonic`.
    """

    @property
    def started(self) -> float: ...

    def is_over(self) -> bool:
        """Whether it is computed, or was read. Returns at once; safe from any thread."""
        ...


class DeviceWatch:
    """The device, as seen from the host. `check`, `call_seconds` and `unread_seconds` are safe from any thread.

    Attributes:
        idle_seconds: the time that the device had nothing to do between two steps. An upper bound: the end of a
            program is only noticed when its outcome is looked at.
        seen_busy: when the device was last known to have something to do, by `time.monotonic`.
    """

    def __init__(self, hang_seconds: float) -> None:
        """A call, or a program, that takes longer than this makes the engine unhealthy."""
        self._hang_seconds = hang_seconds
        self._failure: Exception | None = None
        self._started: float | None = None
        # Replaced and never changed, since other threads look at it.
        self._unread: list[Unread] = []
        self._last_read = 0.0
        self.idle_seconds = 0.0
        self.seen_busy = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around each call that may wait for the device. An error in it breaks the engine for good."""
        self._started = time.monotonic()
        try:
            yield
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._started = None
            self.seen_busy = time.monotonic()

    def started(self, outcome: Unread) -> None:
        """A program was started, behind all that were started before."""
        self._unread = [each for each in self._unread if not each.is_over()] + [outcome]

    def read(self) -> None:
        """The oldest outcome was read, so the device turns to the next one."""
        self._last_read = time.monotonic()

    def call_seconds(self) -> float:
        """How long the call in progress has taken so far; 0 if there is none."""
        started = self._started
        return 0.0 if started is None else time.monotonic() - started

    def unread_seconds(self) -> float:
        """How long the device has been at the oldest program that is not computed; 0 if there is none.

        One that is computed and that nobody reads is no hang: the router may have gone.
        """
        for outcome in self._unread:
            if not outcome.is_over():
                return time.monotonic() - max(outcome.started, self._last_read)
        return 0.0

    def check(self) -> None:
        """Raises RuntimeError if a call failed or does not come back, or a program does not end."""
        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure}") from self._failure
        seconds = max(self.call_seconds(), self.unread_seconds())
        if seconds > self._hang_seconds:
            raise RuntimeError(
                f"the device has not answered for {seconds:.0f} s, and --hang-timeout is {self._hang_seconds:.0f} s: "
                "it hangs, or a single program takes longer than that"
            )
