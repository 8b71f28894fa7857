"""`tpu-tgi` as its users and supervisors see it: start, end, and everything that can go wrong before."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from front.launched import Launched, launched
from front.running_front import wait_until
from text_generation_server.errors import InvalidSettingError
from tpu_tgi import addresses
from tpu_tgi.embedded.shard_process import executable
from tpu_tgi.embedded.warming_up import WarmUp


class Launch(Protocol):
    def __call__(
        self, *options: str, environment: dict[str, str] | None = None
    ) -> AbstractContextManager[Launched]: ...


@pytest.fixture
def launch(model_directory: Path, tmp_path: Path) -> Launch:
    """Starts `tpu-tgi` with the given options and environment."""

    @contextmanager
    def start(*options: str, environment: dict[str, str] | None = None) -> Iterator[Launched]:
        with launched(tmp_path, str(model_directory), *options, environment=environment) as running:
            yield running

    return start


def is_running(pid: int) -> bool:
    """False for a process that is gone, or that only waits to be buried by init."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def post(running: Launched, inputs: str, max_new_tokens: int) -> httpx.Response:
    body = {"inputs": inputs, "parameters": {"max_new_tokens": max_new_tokens}}
    return httpx.post(f"{running.url}/generate", json=body, timeout=20)


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line:
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_with_0_after_the_running_answers(launch: Launch, number: int) -> None:
    with launch() as running:
        running.wait_until_ready()
        assert f"Ready: serving on {running.url}\n" in running.output
        body = {"inputs": "a", "parameters": {"max_new_tokens": 40}}
        with httpx.stream("POST", f"{running.url}/generate_stream", json=body) as response:
            answer = events(response)
            assert next(answer)["index"] == 1
            running.signal(number)
            *_, last = answer
        assert last["index"] == 40
        assert last["generated_text"].endswith(" é40")
        assert running.exit_code() == 0
        assert not is_running(running.shard_pid)


def test_a_shard_that_is_killed_ends_the_service_with_1_and_its_clients_are_told(launch: Launch) -> None:
    with launch() as running:
        running.wait_until_ready()
        with httpx.stream("POST", f"{running.url}/generate_stream", json={"inputs": "a"}) as response:
            answer = events(response)
            assert next(answer)["index"] == 1
            os.kill(running.shard_pid, signal.SIGKILL)
            *_, last = answer
        assert last["error_type"] == "generation"
        assert running.exit_code() == 1
        assert "ERROR tpu_tgi.embedded.launcher: The shard has died: killed by SIGKILL\n" in running.output
        assert "Traceback" not in running.output


def test_a_launcher_that_is_killed_takes_its_shard_with_it(launch: Launch) -> None:
    with launch() as running:
        running.wait_until_ready()
        shard = running.shard_pid
        assert is_running(shard)
        running.signal(signal.SIGKILL)
        wait_until(lambda: not is_running(shard))


def test_a_shard_that_ignores_sigterm_is_killed(launch: Launch) -> None:
    with launch("--graceful-termination-timeout", "1", environment={"FAKE_IGNORES_SIGTERM": "1"}) as running:
        running.wait_until_ready()
        shard = running.shard_pid
        running.signal(signal.SIGTERM)
        assert running.exit_code() == 0
        assert not is_running(shard)


def test_a_shard_that_fails_at_start_is_reported_with_its_traceback(launch: Launch) -> None:
    with launch(environment={"FAKE_FAILURE": "no such model"}) as running:
        assert running.exit_code() == 1
        assert "Traceback: no such model\n" in running.output
        assert running.lines[-1].endswith(
            "ERROR tpu_tgi.embedded.launcher: The shard has died: exit code 3\n"
        )


def test_sigterm_while_the_shard_loads_ends_with_0(launch: Launch) -> None:
    with launch(environment={"FAKE_NEVER_READY": "1"}) as running:
        wait_until(lambda: "called with serve" in running.output)
        assert httpx.get(f"{running.url}/health").status_code == 503
        running.signal(signal.SIGTERM)
        assert running.exit_code() == 0


def test_a_port_in_use_is_found_before_the_model_is_loaded(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with launch("--port", str(port)) as running:
            assert running.exit_code() == 1
            (line,) = running.lines
            assert f"`--hostname 127.0.0.1 --port {port}` cannot be used: Address already in use" in line


def test_a_socket_in_use_is_found_before_the_model_is_loaded(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "shard-0"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with launch() as running:
            assert running.exit_code() == 1
            (line,) = running.lines
            assert f"another shard listens on {path}" in line
    assert path.exists()


def test_a_socket_that_was_left_behind_is_replaced(launch: Launch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "shard-0"))
    with launch() as running:
        running.wait_until_ready()
        assert post(running, "a", 1).status_code == 200


def test_the_shard_is_found_beside_python_if_its_environment_is_not_active() -> None:
    found = executable({"PATH": "/nowhere"})
    assert found == str(Path(sys.executable).with_name("text-generation-server"))
    assert os.access(found, os.X_OK)


def test_a_second_signal_ends_everything_at_once(launch: Launch, tmp_path: Path) -> None:
    environment = {"FAKE_IGNORES_SIGTERM": "1", "TMPDIR": str(tmp_path)}
    with launch("--shard-uds-path", "", environment=environment) as running:
        running.wait_until_ready()
        shard = running.shard_pid
        running.signal(signal.SIGINT)
        wait_until(lambda: "a second one ends at once" in running.output)
        running.signal(signal.SIGINT)
        assert running.exit_code() == 1
        wait_until(lambda: not is_running(shard))
        assert not list(tmp_path.glob("tpu-tgi-*"))


def test_while_the_model_is_loaded_clients_are_told_to_come_again(launch: Launch) -> None:
    with launch(environment={"FAKE_NEVER_READY": "1"}) as running:
        wait_until(lambda: "called with serve" in running.output, 20)
        for path in ("/health", "/generate"):
            response = httpx.post(f"{running.url}{path}", json={"inputs": "a"})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "5"
            assert response.json() == {
                "status": "loading the model",
                "programs": None,
                "seconds_left": None,
            }
        running.signal(signal.SIGTERM)
        assert running.exit_code() == 0


def test_the_programs_that_are_compiled_are_counted() -> None:
    warm_up = WarmUp()
    warm_up.notice("Warm-up 1/19: decode in 2.1 s")
    assert warm_up.seconds_left is None
    time.sleep(0.1)
    for line in ("Warm-up 2/19: prefill 128 in 6.2 s", "something else"):
        warm_up.notice(line)
    # 17 programs of 0.1 s.
    assert warm_up.seconds_left == pytest.approx(1.7, rel=0.3)
    assert b'{"status": "warming up", "programs": "2/19", "seconds_left": 1.' in warm_up.answer()
    # What comes after is counted anew.
    warm_up.notice("Warm-up 1/6: decode first run in 0.3 s")
    assert warm_up.seconds_left is None


def test_without_a_path_the_socket_is_where_nobody_else_can_go(launch: Launch, tmp_path: Path) -> None:
    with launch("--shard-uds-path", "", environment={"TMPDIR": str(tmp_path)}) as running:
        running.wait_until_ready()
        (directory,) = tmp_path.glob("tpu-tgi-*")
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "shard-0").is_socket()
        running.signal(signal.SIGTERM)
        assert running.exit_code() == 0
    assert not directory.exists()


def test_a_socket_without_room_anywhere_is_refused_with_the_option_that_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(addresses, "temporary_directories", lambda: [str(tmp_path / "no"), "/proc"])
    with (
        pytest.raises(InvalidSettingError, match=r"--shard-uds-path PATH.*has some"),
        addresses.socket_directory(),
    ):
        pass


def test_a_socket_finds_the_next_disk_where_the_first_has_no_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(addresses, "temporary_directories", lambda: ["/proc", str(tmp_path)])
    with addresses.socket_directory() as directory:
        assert directory.parent == tmp_path
        assert addresses.LOCK in os.listdir(directory)
    assert not directory.exists()


def test_a_start_removes_what_killed_services_left_and_nothing_of_those_that_run(
    launch: Launch, tmp_path: Path
) -> None:
    def start() -> AbstractContextManager[Launched]:
        return launch("--shard-uds-path", "", environment={"TMPDIR": str(tmp_path)})

    with start() as killed:
        killed.wait_until_ready()
        killed.signal(signal.SIGKILL)
        killed.exit_code()
    (left,) = tmp_path.glob("tpu-tgi-*")
    with start() as first:
        first.wait_until_ready()
        assert not left.exists()
        (running,) = tmp_path.glob("tpu-tgi-*")
        with start() as second:
            second.wait_until_ready()
            assert running in tmp_path.glob("tpu-tgi-*")
            assert httpx.get(f"{first.url}/health").status_code == 200


def test_a_fault_in_the_small_files_is_found_before_the_shard_starts(launch: Launch) -> None:
    with launch("--tokenizer-config-path", "/nope.json") as running:
        assert running.exit_code() == 1
        assert "`--tokenizer-config-path /nope.json` is not a file" in running.lines[-1]
        assert "called with serve" not in running.output


@pytest.mark.parametrize("variable", ["HUGGINGFACE_HUB_CACHE", "WEIGHTS_CACHE_OVERRIDE"])
def test_shard_and_router_read_the_model_in_the_same_cache(
    launch: Launch, model_directory: Path, tmp_path: Path, variable: str
) -> None:
    """The hub's layout of a cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache."""
    commit = "0" * 40
    cached = tmp_path / "cache" / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(model_directory, cached / "snapshots" / commit)
    option = "--" + variable.lower().replace("_", "-")
    offline = {"HF_HUB_OFFLINE": "1"}
    with launch("--model-id", "some/model", option, str(tmp_path / "cache"), environment=offline) as running:
        running.wait_until_ready()
        assert f"called with serve {cached / 'snapshots' / commit} " in running.output
        assert httpx.get(f"{running.url}/info").json()["model_id"] == "some/model"


def test_limits_that_the_shard_does_not_meet_end_the_service_with_1(launch: Launch) -> None:
    with launch("--max-batch-prefill-tokens", "8") as running:
        assert running.exit_code() == 1
        assert "`--max-batch-prefill-tokens 8` must be >= 63, the longest prompt" in running.lines[-1]
        assert not is_running(running.shard_pid)


def test_options_reach_the_shard(launch: Launch) -> None:
    with launch("--dtype", "float32", "--max-input-tokens", "20", "--max-total-tokens", "32") as running:
        running.wait_until_ready()
        (called,) = [line for line in running.lines if "called with serve" in line]
        assert "--dtype float32" in called
        assert "--max-input-tokens 20" in called
        info = httpx.get(f"{running.url}/info").json()
        assert (info["max_input_tokens"], info["max_total_tokens"]) == (20, 32)


def test_options_are_read_from_the_environment_and_the_two_numbers_too(launch: Launch) -> None:
    environment = {"HF_SEQUENCE_LENGTH": "48", "HF_BATCH_SIZE": "2", "MAX_CONCURRENT_REQUESTS": "7"}
    with launch(environment=environment) as running:
        running.wait_until_ready()
        info = httpx.get(f"{running.url}/info").json()
        assert (info["max_total_tokens"], info["max_concurrent_requests"]) == (48, 7)
        assert "48 of prompt and answer, 48 of a prefill; 2 requests at once" in running.output


def test_a_batch_size_that_nobody_chose_is_left_to_the_shard(launch: Launch) -> None:
    with launch(environment={"FAKE_BATCH_SIZE": "90"}) as running:
        running.wait_until_ready()
        assert httpx.get(f"{running.url}/info").json()["max_concurrent_requests"] == 180


def test_contradicting_options_end_the_service_with_1(launch: Launch) -> None:
    with launch("--max-batch-size", "4", environment={"HF_BATCH_SIZE": "8"}) as running:
        assert running.exit_code() == 1
        assert running.output == (
            "Error: `--max-batch-size 4` contradicts `HF_BATCH_SIZE=8`: `--max-batch-size 8` would work\n"
        )


def test_the_log_is_readable_and_on_demand_json(launch: Launch) -> None:
    with launch() as running:
        running.wait_until_ready()
        assert any(
            line.endswith(f" INFO text-generation-server: loaded by process {running.shard_pid}\n")
            for line in running.lines
        )
    with launch("--json-output") as running:
        running.wait_until_ready()
        records = [json.loads(line) for line in running.lines]
        assert {"timestamp", "level", "fields", "target"} == set(records[0])
        assert any(record["fields"]["message"].startswith("loaded by") for record in records)


def test_a_model_that_is_no_directory_is_downloaded_first(launch: Launch) -> None:
    with launch(
        "--model-id", "some/model", "--revision", "abc", environment={"FAKE_FAILURE": "x"}
    ) as running:
        assert running.exit_code() == 1
        assert "download-weights some/model --extension .safetensors" in running.output
        assert "--revision abc" in running.output
        assert "The weights of `--model-id some/model` could not be fetched: exit code 3" in running.lines[-1]
