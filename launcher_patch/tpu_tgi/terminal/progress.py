"""A bar in the terminal while a service warms up."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tpu_tgi.embedded.warming_up import WarmUp

REDRAW_SECONDS = 0.25


class WarmUpBar:
    """The bar, to be used as `with`; it disappears at the end. Lines that are printed meanwhile stay above it."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[programs]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("Loading the model", total=None, programs="", left="")

    def __enter__(self) -> "WarmUpBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, status: str, done: int | None, total: int | None, seconds_left: float | None) -> None:
        self._bar.update(
            self._task,
            description=status.capitalize(),
            completed=done or 0,
            total=total,
            programs="" if total is None else f"{done}/{total} programs",
            left="" if seconds_left is None else f"about {seconds_left:.0f} s left",
        )


@asynccontextmanager
async def progress_bar(warm_up: WarmUp) -> AsyncIterator[None]:
    """Shows how far `warm_up` is while the block runs; nothing where stdout is no terminal."""
    if not sys.stdout.isatty():
        yield
        return
    with WarmUpBar(Console(file=sys.stdout)) as bar:
        drawing = asyncio.create_task(draw(bar, warm_up))
        try:
            yield
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing


async def draw(bar: WarmUpBar, warm_up: WarmUp) -> None:
    while True:
        bar.show(warm_up.status, warm_up.done, warm_up.total, warm_up.seconds_left)
        await asyncio.sleep(REDRAW_SECONDS)
