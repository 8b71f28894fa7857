"""The longest time for which an event loop did nothing for anybody."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TICK_SECONDS = 0.002


@dataclass
class LongestPause:
    """seconds: between two turns of the loop, beyond the tick that was asked for."""

    seconds: float = 0.0


@contextmanager
def longest_pause(loop: asyncio.AbstractEventLoop) -> Iterator[LongestPause]:
    """Watches a loop that runs in another thread while the block runs."""
    pause = LongestPause()

    async def watch() -> None:
        last, worked = time.perf_counter(), time.process_time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, working = time.perf_counter(), time.process_time()
            # While this process did not work, the machine was busy with others.
            pause.seconds = max(pause.seconds, min(now - last - TICK_SECONDS, working - worked))
            last, worked = now, working

    watching = asyncio.run_coroutine_threadsafe(watch(), loop)
    time.sleep(0.05)
    try:
        yield pause
    finally:
        time.sleep(0.05)
        watching.cancel()
