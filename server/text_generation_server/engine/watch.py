"""Sees that the device fails, hangs, or has nothing to do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceWatch:
    """The calls of the device, as seen from the host. `check` and `call_seconds` are safe from any thread.

    Attributes:
        idle_seconds: the time that the device had nothing to do between two steps. An upper bound: the end of a
            program is only noticed when its outcome is looked at.
        seen_busy: when the device was last known to have something to do, by `time.monotonic`.
    """

    def __init__(self, hang_seconds: float) -> None:
        """A call that takes longer than this makes the engine unhealthy."""
        self._hang_seconds = hang_seconds
        self._failure: Exception | None = None
        self._started: float | None = None
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

    def call_seconds(self) -> float:
        """How long the call in progress has taken so far; 0 if there is none."""
        started = self._started
        return 0.0 if started is None else time.monotonic() - started

    def check(self) -> None:
        """Raises RuntimeError if a call failed, or does not come back."""
        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure}") from self._failure
        seconds = self.call_seconds()
        if seconds > self._hang_seconds:
            raise RuntimeError(
                f"the device has not answered for {seconds:.0f} s, and --hang-timeout is {self._hang_seconds:.0f} s: "
                "it hangs, or a single call takes longer than that"
            )
