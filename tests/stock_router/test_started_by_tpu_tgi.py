"""`tpu-tgi` in front of the stock programs, and in their place: old command lines serve, and it ends as they do."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stock_router.http_client import HttpClient
from stock_router.stock_programs import LAUNCHER, ROUTERS, environment, need, program_directory
from stock_router.stock_service import StockService, free_port, start
from wire.shard_process import COMMAND, spelling_checkpoint

OLD_README = [
    *("--max-concurrent-requests", "1", "--max-input-length", "512", "--max-total-tokens", "1024"),
    *("--max-batch-prefill-tokens", "512", "--max-batch-total-tokens", "1024"),
]


@contextmanager
def started(directory: Path, router: str, *options: str, **variables: str) -> Iterator[StockService]:
    """Runs `tpu-tgi` on a model that spells; `router` is v3, v2 or embedded. Returns when it serves."""
    in_path = "v3" if router == "embedded" else router
    need(LAUNCHER, ROUTERS[in_path])
    own = ["--embedded"] if router == "embedded" else ["--usage-stats", "off"]
    programs = program_directory(directory, in_path, COMMAND)
    model = spelling_checkpoint(directory / "model")
    port = free_port()
    command = [sys.executable, "-m", "tpu_tgi", "--model-id", str(model), "--hostname", "127.0.0.1"]
    command += ["--port", str(port), "--shard-uds-path", str(directory / "shard"), *own, *options]
    launcher = start(command, directory, environment(variables, programs))
    with HttpClient(port) as http:
        service = StockService(launcher, http)
        try:
            service.wait_until_ready()
            yield service
        finally:
            launcher.end()


@pytest.mark.parametrize("router", ["v3", "v2", "embedded"])
def test_the_command_line_of_the_old_readme_serves_whole_requests(tmp_path: Path, router: str) -> None:
    with started(tmp_path, router, *OLD_README) as service:
        info = service.http.info()
        limits = info["max_input_tokens"], info["max_total_tokens"], info["max_concurrent_requests"]
        assert limits == (512, 1024, 1)
        prompt = "FOREVER".ljust(511, "a")
        answer = service.http.generate(prompt, max_new_tokens=512, details=True)
        assert answer["details"]["generated_tokens"] == 512
        assert answer["generated_text"].startswith("bcdefgh")
        assert service.stop() < 30


@pytest.mark.parametrize("router", ["v3", "v2"])
def test_two_numbers_are_enough_for_many_and_for_whole_requests(tmp_path: Path, router: str) -> None:
    with started(tmp_path, router, HF_BATCH_SIZE="3", HF_SEQUENCE_LENGTH="100") as service:
        requests = [("FOREVER".ljust(98, "a"), {"max_new_tokens": 1}), *[("w", {"max_new_tokens": 9})] * 9]
        texts = [answer["generated_text"] for answer in service.http.generate_all(requests)]
        assert texts == ["b", *["xyz"] * 9]
        whole = service.http.generate("FOREVERa", max_new_tokens=91, details=True)
        assert whole["details"]["generated_tokens"] == 91


def test_a_shard_that_is_killed_ends_it_with_the_launchers_exit_code(tmp_path: Path) -> None:
    with started(tmp_path, "v3", HF_SEQUENCE_LENGTH="100") as service:
        # tpu-tgi has become the launcher: the shard is its own child.
        os.kill(service.launcher.child("serve"), signal.SIGKILL)
        assert service.launcher.exit_code() == 1
        assert "Shard 0 crashed" in service.launcher.log
