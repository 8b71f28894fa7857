"""From the launcher's start to its exit code, in sickness and in health. (Protocol section 6.4.)"""

import os
import signal
from pathlib import Path

import httpx
import pytest

from stock_router.stock_programs import LAUNCHER, ROUTERS, need
from stock_router.stock_service import launched, wait_until
from wire.shard_process import COMMAND, spelling_checkpoint

LIMITS = ["--max-total-tokens", "128", "--max-input-tokens", "127", "--max-batch-prefill-tokens", "128"]


@pytest.fixture(autouse=True)
def _installed() -> None:
    need(LAUNCHER, ROUTERS["v3"])


def test_a_signal_ends_launcher_router_and_shard(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        service.wait_until_ready()
        assert service.http.generate("w", max_new_tokens=9)["generated_text"] == "xyz"
        shard, router = service.launcher.child("serve"), service.launcher.child("text-generation-router")
        assert service.stop() < 10
        assert not is_running(shard)
        assert not is_running(router)
        assert not (tmp_path / "shard-0").exists()


def test_a_killed_shard_ends_the_launcher_with_an_error(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        service.wait_until_ready()
        router = service.launcher.child("text-generation-router")
        os.kill(service.launcher.child("serve"), signal.SIGKILL)
        assert service.launcher.exit_code() == 1
        assert not is_running(router)


def test_a_killed_launcher_takes_the_shard_with_it(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        service.wait_until_ready()
        shard, router = service.launcher.child("serve"), service.launcher.child("text-generation-router")
        service.launcher.process.kill()
        wait_until(lambda: not is_running(shard))
        # Nobody else ends it, and it holds the launcher's output open.
        os.kill(router, signal.SIGKILL)


def test_an_engine_that_fails_is_told_to_the_client_and_ends_the_launcher(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        service.wait_until_ready()
        with pytest.raises(httpx.HTTPStatusError) as failure:
            service.http.generate("BREAK", max_new_tokens=3)
        assert failure.value.response.status_code == 424
        assert "RuntimeError: the device is gone" in failure.value.response.json()["error"]
        assert service.launcher.exit_code() == 1
        assert "the device is gone" in service.launcher.log


def test_a_missing_model_is_named_in_the_log(tmp_path: Path) -> None:
    with launched(tmp_path, "/models/nowhere", *LIMITS, router="v3", server=COMMAND) as service:
        assert service.launcher.exit_code() == 1
        assert "/models/nowhere" in service.launcher.log
        assert "Traceback" not in service.launcher.log


def test_an_unsupported_model_is_refused_with_the_list_of_what_works(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model", "UNSUPPORTED")
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        assert service.launcher.exit_code() == 1
        assert "model type 'odd' is not supported. Supported: spelling." in service.launcher.log


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (["--lora-adapters", "mine=/adapters/mine"], {}, "/adapters/mine is neither a directory here nor"),
        (["--num-shard", "2"], {}, "More than one shard is not supported"),
        (["--max-batch-size", "2"], {"HF_BATCH_SIZE": "4"}, "HF_BATCH_SIZE=4 and MAX_BATCH_SIZE=2"),
        ([], {"HF_SEQUENCE_LENGTH": "64"}, "HF_SEQUENCE_LENGTH=64 and MAX_TOTAL_TOKENS=128"),
    ],
    ids=["lora", "num-shard", "two-batch-sizes", "two-lengths"],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    tmp_path: Path, flags: list[str], variables: dict[str, str], message: str
) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    with launched(
        tmp_path, model, *LIMITS, *flags, router="v3", server=COMMAND, variables=variables
    ) as service:
        assert service.launcher.exit_code() == 1
        assert message in service.launcher.log


def test_a_quantised_checkpoint_that_is_not_read_is_refused_though_nobody_passed_a_flag(
    tmp_path: Path,
) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "exl2"}}')
    with launched(tmp_path, model, *LIMITS, router="v3", server=COMMAND) as service:
        assert service.launcher.exit_code() == 1
        assert "then use another checkpoint" in service.launcher.log


def test_a_prefill_budget_above_what_the_slots_hold_is_refused_by_name(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    flags = ["--max-total-tokens", "128", "--max-batch-size", "4", "--max-batch-prefill-tokens", "641"]
    with launched(tmp_path, model, *flags, router="v3", server=COMMAND) as service:
        assert service.launcher.exit_code() == 1
        assert "--max-batch-prefill-tokens (641) must not exceed 640" in service.launcher.log


def is_running(process_id: int) -> bool:
    """False also for a process that has ended and waits for its parent to notice."""
    try:
        return ") Z" not in Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
