"""A stock router alone, without its launcher, in front of a fake shard that lives in this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from front.fake_shard import FakeShard
from stock_router.http_client import HttpClient
from stock_router.stock_programs import ROUTERS, environment
from stock_router.stock_service import StockService, free_port, start


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
def routed(directory: Path, model: Path, shard: FakeShard, *flags: str) -> Iterator[StockService]:
    """The v3 router, ready; it works in `directory`, which must be writable."""
    port = free_port()
    command = [
        ROUTERS["v3"],
        *("--master-shard-uds-path", shard.socket_path, "--tokenizer-name", str(model)),
        *("--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())),
        *("--max-input-tokens", str(shard.max_length - 1), "--max-total-tokens", str(shard.max_length)),
        *("--max-batch-prefill-tokens", str(shard.max_length), "--usage-stats", "off", *flags),
    ]
    router = start(command, directory, environment({}))
    with HttpClient(port) as http:
        try:
            service = StockService(router, http)
            service.wait_until_ready()
            yield service
        finally:
            router.end()
