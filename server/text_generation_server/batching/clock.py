"""Where the time of one call goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from text_generation_server.batching.requests import Timings


class Clock:
    """Starts when it is made, and tells the time in calls of the engine from the rest."""

    def __init__(self) -> None:
        self._started_ns = time.perf_counter_ns()
        self._forward_ns = 0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """What happens within is time of the device."""
        started_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._forward_ns += time.perf_counter_ns() - started_ns

    def timings(self) -> Timings:
        """Up to now."""
        total_ns = time.perf_counter_ns() - self._started_ns
        return Timings(self._forward_ns, total_ns - self._forward_ns, total_ns)
