"""Routers come and go in front of one shard, which keeps its model and forgets their requests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stock_router.http_client import HttpClient
from stock_router.stock_programs import ROUTERS, environment, need
from stock_router.stock_service import StockService, free_port, start, wait_until
from wire.shard_process import COMMAND, spelling_checkpoint


def test_a_shard_serves_one_router_after_the_other(tmp_path: Path) -> None:
    need(*ROUTERS.values())
    model = spelling_checkpoint(tmp_path / "model")
    socket_path = tmp_path / "shard-0"
    shape = {"HF_BATCH_SIZE": "1", "HF_SEQUENCE_LENGTH": "512"}
    command = [*COMMAND, "serve", str(model), "--uds-path", str(tmp_path / "shard")]
    shard = start(command, tmp_path, environment(shape))
    try:
        wait_until(socket_path.exists)
        for version in ("v3", "v3", "v2", "v3"):
            with routed(tmp_path, model, version) as service:
                # The router before was killed while the only slot was taken.
                assert service.http.generate("w", max_new_tokens=9)["generated_text"] == "xyz"
                body = {"inputs": "FOREVER", "parameters": {"max_new_tokens": 500}}
                with service.http.opened("/generate_stream", body) as events:
                    assert json.loads(next(events))["token"]["text"] == "a"
                    service.launcher.process.kill()
        shard.process.terminate()
        assert shard.exit_code() == 0
    finally:
        shard.end()


@contextmanager
def routed(directory: Path, model: Path, version: str) -> Iterator[StockService]:
    """A router that nobody launched."""
    port = free_port()
    command = [
        ROUTERS[version],
        *("--master-shard-uds-path", str(directory / "shard-0"), "--tokenizer-name", str(model)),
        *("--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())),
        *("--max-input-tokens", "511", "--max-total-tokens", "512", "--max-batch-prefill-tokens", "512"),
        *("--usage-stats", "off"),
    ]
    router = start(command, directory, environment({}))
    with HttpClient(port) as http:
        try:
            service = StockService(router, http)
            service.wait_until_ready()
            yield service
        finally:
            router.end()
