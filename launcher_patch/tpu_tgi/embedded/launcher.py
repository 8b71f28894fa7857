"""Starts the shard, serves in front of it, and stops both."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from loguru import logger

from text_generation_server.errors import InvalidSettingError, UnsupportedModelError
from text_generation_server.hub import model_directory
from tpu_tgi.addresses import free_socket_path, reserve, socket_directory
from tpu_tgi.embedded.settings import LauncherSettings
from tpu_tgi.embedded.shard_command import download_arguments, serve_arguments, shard_environment
from tpu_tgi.embedded.shard_process import ShardDiedError, ShardProcess, kill_all
from tpu_tgi.embedded.warming_up import answering_503
from tpu_tgi.router.errors import RouterStartError, ShardError, ShardProtocolError
from tpu_tgi.router.model.texts import ModelTexts, load_texts
from tpu_tgi.router.server import Router
from tpu_tgi.router.tracing import Tracing
from tpu_tgi.terminal.progress import progress_bar

# What the answers that are running when the shard dies need to say so.
LAST_WORDS_SECONDS = 5.0

# Between the failure of a call to the shard and the news that the shard is dead.
OBITUARY_SECONDS = 2.0

# What the shard has to end, however long the answers took.
SHARD_SECONDS = 5.0

DOWNLOAD_STOP_SECONDS = 10.0

# The stock router's name in traces.
ROUTER_SERVICE = "text-generation-inference.router"


class DownloadError(RuntimeError):
    """The weights could not be fetched."""


async def launch(settings: LauncherSettings) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code: 0 then, 1 after a line that says why."""
    stop = asyncio.Event()
    files = ExitStack()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, stop, files)
    stopping = asyncio.create_task(stop.wait())
    try:
        with reserve(settings.hostname, settings.port) as listener, files:
            uds_path = settings.shard_uds_path or str(files.enter_context(socket_directory()) / "shard")
            # The stock launcher appends the rank of the shard; there is one shard.
            free_socket_path(f"{uds_path}-0")
            if not settings.is_local_model:
                await download(settings, stopping)
            if not stop.is_set():
                await run(settings, uds_path, listener, stopping)
    except (
        InvalidSettingError,
        RouterStartError,
        ShardDiedError,
        ShardProtocolError,
        DownloadError,
        UnsupportedModelError,
    ) as error:
        logger.error("{}", error)
        return 1
    finally:
        stopping.cancel()
    logger.info("Stopped")
    return 0


def on_signal(stop: asyncio.Event, files: ExitStack) -> None:
    """The first signal lets running answers finish; the second one ends everything at once, and closes `files`."""
    if stop.is_set():
        logger.warning("Stopped at once by a second signal")
        kill_all()
        files.close()
        os._exit(1)
    logger.info("Signal received: a second one ends at once, without waiting for answers")
    stop.set()


async def download(settings: LauncherSettings, stopping: asyncio.Task[Any]) -> None:
    """Fetches a hub model; gives up if `stopping` is done first. Raises DownloadError."""
    process = await ShardProcess.start(download_arguments(settings), shard_environment(settings))
    finished = asyncio.create_task(process.finished())
    try:
        await first_of(finished, stopping)
        if finished.done() and (code := finished.result()) != 0:
            process.log_stderr()
            raise DownloadError(
                f"The weights of `--model-id {settings.router.model_id}` could not be fetched: "
                f"exit code {code}"
            )
    finally:
        await process.stop(DOWNLOAD_STOP_SECONDS)
        await finished


async def run(
    settings: LauncherSettings, uds_path: str, listener: socket.socket, stopping: asyncio.Task[Any]
) -> None:
    """Runs shard and router until `stopping` is done. Raises what ended them otherwise."""
    environment = shard_environment(settings)
    # A fault in the small files is found before anything heavy starts.
    directory = await asyncio.to_thread(
        model_directory, settings.router.model_id, settings.router.revision, environment
    )
    texts = await asyncio.to_thread(load_texts, directory, settings.router.tokenizer_config_path)
    shard = await ShardProcess.start(serve_arguments(settings, str(directory), uds_path), environment)
    exited = asyncio.create_task(shard.exited())
    traces = ExitStack()
    tracing = traces.enter_context(traced(settings))
    starting = asyncio.create_task(start_router(settings, f"{uds_path}-0", texts, shard, listener, tracing))
    serving: asyncio.Task[None] | None = None
    stopped: float | None = None
    try:
        await first_of(starting, exited, stopping)
        if not starting.done():
            if exited.done():
                exited.result()
            return
        error = starting.exception()
        if error is not None and isinstance(error.__cause__, ShardError):
            await raise_if_dead(exited)
        router = starting.result()

        serving = asyncio.create_task(router.serve(listener))
        await first_of(serving, exited, stopping)
        if not serving.done() and not exited.done():
            logger.info("Stopping: new requests are refused, running ones are answered")
            stopped = time.monotonic()
            router.stop(settings.graceful_termination_timeout)
            await first_of(serving, exited)
        if exited.done():
            # Whoever waits for an answer learns that there will be none.
            router.stop(LAST_WORDS_SECONDS)
            await asyncio.wait({serving}, timeout=2 * LAST_WORDS_SECONDS)
            exited.result()
        await serving
    finally:
        tasks = [task for task in (starting, serving, exited) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shard.stop(left_for_shard(settings.graceful_termination_timeout, stopped))
        # Sends the last spans; a collector that is gone holds this up for a moment.
        await asyncio.to_thread(traces.close)


@contextmanager
def traced(settings: LauncherSettings) -> Iterator[Tracing]:
    """The router's traces, if there is a collector. What exports them is imported only then."""
    if settings.otlp_endpoint is None:
        yield Tracing()
        return
    from text_generation_server.tracing import exported_spans

    with exported_spans(settings.otlp_endpoint, settings.otlp_service_name or ROUTER_SERVICE) as provider:
        yield Tracing(provider)


def left_for_shard(timeout: float, stopped: float | None) -> float:
    """Seconds that the shard has to end: what the answers left of the time for both, and a little in any case."""
    used = 0.0 if stopped is None else time.monotonic() - stopped
    return max(min(timeout, SHARD_SECONDS), timeout - used)


async def start_router(
    settings: LauncherSettings,
    socket_path: str,
    texts: ModelTexts,
    shard: ShardProcess,
    listener: socket.socket,
    tracing: Tracing,
) -> Router:
    """Returns when the shard is warm. Raises RouterStartError."""
    async with answering_503(listener, shard.warm_up, page=settings.router.page), progress_bar(shard.warm_up):
        await shard.wait_for_socket(socket_path)
        return await Router.start(settings.router, socket_path, texts, tracing)


async def raise_if_dead(exited: asyncio.Task[None]) -> None:
    """A call failed: if the shard is dead, that is the reason to tell. Raises ShardDiedError."""
    await asyncio.wait({exited}, timeout=OBITUARY_SECONDS)
    if exited.done():
        exited.result()


async def first_of(*tasks: asyncio.Task[Any]) -> None:
    """Returns when one of them is done."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
