"""A device that fails or does not come back is seen, whoever waits for it."""

import threading
import time
from pathlib import Path

import pytest

from support import engines
from support.checkpoints import save
from support.driver import prefill
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.runtime.mesh import DeviceMesh

HANG_SECONDS = 0.3


@pytest.fixture
def engine(tmp_path: Path) -> StaticBatchEngine:
    """With one live slot."""
    engine = engines.engine(save("llama", tmp_path), batch_size=2, max_length=64, hang_seconds=HANG_SECONDS)
    prefill(engine, 0, [5, 6, 7])
    return engine


def hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceMesh, "is_computed", lambda mesh, buffer: False)


def test_a_step_that_never_ends_is_a_hang_though_nobody_reads_it(
    engine: StaticBatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start_step().choose().read()
    hang(monkeypatch)
    oldest = engine.start_step().choose()
    time.sleep(HANG_SECONDS * 0.7)
    engine.check_health()
    newest = engine.start_step().choose()
    time.sleep(HANG_SECONDS * 0.7)
    with pytest.raises(RuntimeError, match=r"has not answered for .* s, and --hang-timeout is"):
        engine.check_health()
    # It came back after all, and the device turned to the next one only then.
    oldest.read()
    engine.check_health()
    time.sleep(HANG_SECONDS * 1.2)
    with pytest.raises(RuntimeError, match="has not answered"):
        engine.check_health()
    newest.read()
    engine.check_health()


def test_a_step_that_ended_and_that_nobody_reads_is_no_hang(engine: StaticBatchEngine) -> None:
    for _ in range(2):
        engine.start_step().choose()
    time.sleep(HANG_SECONDS * 1.5)
    engine.check_health()


def test_a_call_that_does_not_return_is_a_hang_while_it_lasts(
    engine: StaticBatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, read = threading.Event(), DeviceMesh.read

    def slow(mesh: DeviceMesh, buffer: object) -> object:
        go_on.wait(10)
        return read(mesh, buffer)

    monkeypatch.setattr(DeviceMesh, "read", slow)
    reader = threading.Thread(target=engine.start_step().choose().read)
    reader.start()
    time.sleep(HANG_SECONDS * 1.5)
    assert engine.statistics().call_seconds > HANG_SECONDS
    with pytest.raises(RuntimeError, match="has not answered"):
        engine.check_health()
    go_on.set()
    reader.join()
    engine.check_health()


def test_an_error_while_reading_breaks_the_engine_for_good(
    engine: StaticBatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(mesh: DeviceMesh, buffer: object) -> object:
        raise RuntimeError("the chip is gone")

    pending = engine.start_step().choose()
    monkeypatch.setattr(DeviceMesh, "read", fail)
    with pytest.raises(RuntimeError, match="the chip is gone"):
        pending.read()
    with pytest.raises(RuntimeError, match="the engine failed: the chip is gone"):
        engine.check_health()
