"""Sees that the device fails, hangs, or has nothing to do, and that programs are compiled after warm-up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from loguru import logger


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

    def note_idle_time(self, last: Unread | None) -> None:
        """Adds the time since the device was last seen busy, if it has nothing to do behind the `last` outcome."""
        if last is None:
            return
        now = time.monotonic()
        if last.is_over():
            self.idle_seconds += now - self.seen_busy

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


class CompilationWatch:
    """Counts and reports what must not happen after warm-up.

    Attributes:
        after_warm_up: programs that were compiled since `begin`. Without it, which is for debugging, programs are
            compiled as they are needed, and none is counted.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        """`count`: of all compilations so far."""
        self._count = count
        self._seen: int | None = None
        self.after_warm_up = 0

    @property
    def is_warm(self) -> bool:
        return self._seen is not None

    def begin(self) -> None:
        """The warm-up is over."""
        self._seen = self._count()

    def look(self) -> None:
        """To be called whenever programs ran."""
        if self._seen is None:
            return
        compilations = self._count()
        if compilations != self._seen:
            self.after_warm_up += compilations - self._seen
            self._seen = compilations
            logger.error(f"A program was compiled after warm-up ({self.after_warm_up} so far): a defect")
