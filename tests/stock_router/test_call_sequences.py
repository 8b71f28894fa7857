"""The stock router, played the scenes that the embedded router is held to in tests/front."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from front.batching_scenes import SCENES, Scene, play
from front.fake_shard import FakeShard
from stock_router.http_client import HttpClient
from stock_router.stock_programs import ROUTERS, environment, need
from stock_router.stock_service import StockService, free_port, start
from wire.shard_process import spelling_checkpoint

LENGTH = 64


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_requests_join_and_leave_as_in_front_of_the_embedded_router(tmp_path: Path, scene: Scene) -> None:
    need(ROUTERS["v3"])
    shard = FakeShard(str(tmp_path / "shard-0"), max_length=LENGTH, **scene.shard)
    flags = [
        "--waiting-served-ratio",
        str(scene.ratio),
        "--max-waiting-tokens",
        str(scene.max_waiting_tokens),
    ]
    if scene.max_batch_size is not None:
        flags += ["--max-batch-size", str(scene.max_batch_size)]
    with running(shard), routed(tmp_path, *flags) as service:
        assert play(scene, shard, f"http://127.0.0.1:{service.http.port}") == scene.calls
    assert shard.violations == []


@contextmanager
def running(shard: FakeShard) -> Iterator[None]:
    """The shard in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(shard.start(), loop).result(timeout=10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(shard.stop(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def routed(directory: Path, *flags: str) -> Iterator[StockService]:
    """The stock router in front of the shard at `shard-0` in the directory."""
    port = free_port()
    command = [
        ROUTERS["v3"],
        *("--master-shard-uds-path", str(directory / "shard-0")),
        *("--tokenizer-name", str(spelling_checkpoint(directory / "model"))),
        *("--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())),
        *("--max-input-tokens", str(LENGTH - 1), "--max-total-tokens", str(LENGTH)),
        *("--max-batch-prefill-tokens", str(LENGTH), "--usage-stats", "off"),
        *flags,
    ]
    router = start(command, directory, environment({}))
    with HttpClient(port) as http:
        try:
            service = StockService(router, http)
            service.wait_until_ready()
            yield service
        finally:
            router.end()
