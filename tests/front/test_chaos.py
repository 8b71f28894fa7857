"""What clients and operators see when a process is killed, or an address is taken: with the shard as it is."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from front.hostile import hostile_beside
from front.launched import Launched, launched
from front.running_front import wait_until
from front.test_launcher import is_running
from wire.shard_process import spelling_checkpoint

LASTING = {"inputs": "FOREVERa", "parameters": {"max_new_tokens": 2000}}

Service = Callable[..., AbstractContextManager[Launched]]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Starts `tpu-tgi` in front of a shard with two slots."""
    model = spelling_checkpoint(tmp_path / "model")

    @contextmanager
    def start(*options: str) -> Iterator[Launched]:
        shape = ["--max-batch-size", "2", "--max-total-tokens", "4096"]
        environment = {"STEP_SECONDS": "0.01"}
        with launched(
            tmp_path, str(model), *shape, *options, environment=environment, server="wire.fake_shard"
        ) as running:
            yield running

    return start


def stream(running: Launched) -> list[dict[str, Any]]:
    response = httpx.post(f"{running.url}/generate_stream", json=LASTING, timeout=60)
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


def gauge(running: Launched, name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def test_a_killed_shard_is_told_to_everybody_who_runs_or_waits(service: Service) -> None:
    with service() as running:
        running.wait_until_ready()
        with ThreadPoolExecutor(4) as clients, hostile_beside(running.url) as hostile:
            streams = [clients.submit(stream, running) for _ in range(2)]
            wait_until(lambda: gauge(running, "tgi_batch_current_size") == 2)
            waiting = clients.submit(stream, running)
            whole = clients.submit(httpx.post, f"{running.url}/generate", json=LASTING, timeout=60)
            wait_until(lambda: gauge(running, "tgi_queue_size") == 2)
            os.kill(running.child_pid, signal.SIGKILL)
            for events in [run.result() for run in streams]:
                assert events[0]["index"] == 1
                assert events[-1]["error_type"] == "generation"
            assert waiting.result()[-1]["error_type"] in ("generation", "incomplete_generation_stream")
            assert whole.result().status_code in (424, 500)
            assert running.exit_code() == 1
            assert "The shard has died: killed by SIGKILL" in running.lines[-1]
            assert "Traceback" not in running.output
    assert hostile
    assert all(status is None or 400 <= status < 500 for status in hostile)


def test_a_killed_launcher_takes_a_generating_shard_with_it_and_the_next_one_starts(service: Service) -> None:
    with service() as running:
        running.wait_until_ready()
        with httpx.stream("POST", f"{running.url}/generate_stream", json=LASTING) as response:
            pieces = response.iter_raw()
            next(pieces)
            shard = running.child_pid
            running.signal(signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        wait_until(lambda: not is_running(shard), 20)
    with service() as running:
        running.wait_until_ready()
        short = {"inputs": "w", "parameters": {"max_new_tokens": 9}}
        assert httpx.post(f"{running.url}/generate", json=short).json() == {"generated_text": "xyz"}


@pytest.mark.parametrize("taken", ["port", "socket"])
def test_a_second_start_fails_in_one_line_and_the_first_serves_on(service: Service, taken: str) -> None:
    with service() as first:
        first.wait_until_ready()
        with service(*(("--port", str(first.port)) if taken == "port" else ())) as second:
            assert second.exit_code() == 1
            (line,) = [line for line in second.lines if "ERROR" in line]
            expected = (
                "cannot be used: Address already in use" if taken == "port" else "another shard listens on"
            )
            assert expected in line
            assert "Traceback" not in second.output
        assert httpx.get(f"{first.url}/health").status_code == 200
        assert first.socket_path.exists()


def test_a_hub_out_of_reach_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path / "cache")}
    with launched(tmp_path, "someone/model", environment=environment, server="wire.fake_shard") as running:
        assert running.exit_code() == 1
        errors = [line for line in running.lines if " ERROR " in line]
        assert (
            "someone/model (revision main) is not complete in the cache and cannot be downloaded" in errors[0]
        )
        assert "`--model-id someone/model` could not be fetched: exit code 1" in errors[-1]
        assert "Traceback" not in running.output
