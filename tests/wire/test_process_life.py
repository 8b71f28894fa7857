"""From the socket's first moment to the exit code: what a launcher watches (protocol section 6.4)."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from text_generation_server.pb import messages_pb2 as pb

from .router_messages import prefill, request, warmup_v3
from .shard_process import (
    COMMAND,
    connected,
    environment,
    launcher_records,
    run_to_its_end,
    serving,
    spelling_checkpoint,
    wait_until,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, HF_BATCH_SIZE="3", HF_SEQUENCE_LENGTH="64") as (process, socket_path):
        with connected(socket_path) as stub:
            # The socket exists, so the server must answer now.
            assert stub.Warmup(warmup_v3(max_prefill_tokens=64)).max_supported_total_tokens == 4 * 64
            batch = stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9))).batch
            assert batch.size == 1
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert not socket_path.exists()


def test_the_call_in_flight_is_finished_first(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, socket_path), connected(socket_path) as stub:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(stub.Prefill, prefill(0, request(0, "SLOW a", max_new_tokens=1)))
            stub.Health(pb.HealthRequest())
            process.terminate()
            assert answer.result(timeout=10).generations[0].generated_text.text == "b"
        assert process.wait(timeout=10) == 0


def test_a_signal_during_the_warm_up_does_not_wait_for_its_end(tmp_path: Path) -> None:
    with serving(tmp_path, WARMUP_SECONDS="60") as (process, socket_path), connected(socket_path) as stub:
        warming = stub.Warmup.future(warmup_v3(max_prefill_tokens=64))
        stub.Health(pb.HealthRequest())
        process.terminate()
        assert process.wait(timeout=15) == 0
        assert isinstance(warming.exception(), grpc.RpcError)
        assert not socket_path.exists()


def test_an_engine_that_fails_ends_the_process_with_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, "--json-output") as (process, socket_path):
        with connected(socket_path) as stub, pytest.raises(grpc.RpcError, match="the device is gone"):
            stub.Prefill(prefill(0, request(0, "BREAK")))
        assert process.wait(timeout=10) == 1
        assert not socket_path.exists()
        stdout, _ = process.communicate()
    records = launcher_records(stdout)
    assert any(level == "ERROR" and "Traceback" in text for level, text in records)
    assert ("ERROR", "Stopping, because the engine failed: RuntimeError: the device is gone") in records


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "shard-0"))
    with serving(tmp_path) as (process, socket_path):
        wait_until(lambda: accepts(socket_path))
        process.terminate()
        stdout, _ = process.communicate(timeout=10)
    assert "a server that is gone left behind" in stdout


def accepts(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(socket_path)) == 0


def test_a_socket_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, socket_path):
        model = str(tmp_path / "model")
        second = run_to_its_end("serve", model, "--uds-path", str(tmp_path / "shard"), "--json-output")
        assert second.returncode == 1
        level, text = launcher_records(second.stdout)[-1]
        assert level == "ERROR"
        assert f"another server is listening on {socket_path}" in text
        with connected(socket_path) as stub:
            stub.Health(pb.HealthRequest())
        assert process.poll() is None


@pytest.mark.parametrize(
    ("uds_path", "message"),
    [("file", "exists and is no socket"), ("nowhere/shard", "is not a directory")],
)
def test_a_path_that_cannot_be_a_socket_is_refused(tmp_path: Path, uds_path: str, message: str) -> None:
    (tmp_path / "file-0").write_text("precious")
    model = spelling_checkpoint(tmp_path / "model")
    outcome = run_to_its_end("serve", str(model), "--uds-path", str(tmp_path / uds_path))
    assert outcome.returncode == 1
    assert message in outcome.stderr
    assert (tmp_path / "file-0").read_text() == "precious"


def test_a_shard_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    command = [*COMMAND, "serve", str(model), "--uds-path", str(tmp_path / "shard")]
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); input()"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert launcher.stdout is not None
        shard = int(launcher.stdout.readline())
        wait_until((tmp_path / "shard-0").exists)
        launcher.kill()
        launcher.wait()
        wait_until(lambda: not is_running(shard), seconds=10)
        assert not (tmp_path / "shard-0").exists()
    finally:
        launcher.kill()
        launcher.wait()


def is_running(pid: int) -> bool:
    """A zombie, which nobody in a container may reap, has ended."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_help_and_downloads_do_not_load_torch() -> None:
    code = "import sys, text_generation_server.cli, text_generation_server.hub; print('torch' in sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "False"
