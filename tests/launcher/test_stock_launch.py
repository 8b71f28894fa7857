"""`tpu-tgi` where TGI's launcher and router are in PATH: it becomes the launcher, with numbers that agree."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start

OLD_README = [
    *("--max-concurrent-requests", "1", "--max-input-length", "512", "--max-total-tokens", "1024"),
    *("--max-batch-prefill-tokens", "512", "--max-batch-total-tokens", "1024"),
]


@pytest.fixture
def model(tmp_path: Path) -> str:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 8192}))
    return str(directory)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return install(tmp_path / "bin")


def run(programs: Path, model: str, *options: str, **variables: str) -> Outcome:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--model-id", model, "--hostname", "127.0.0.1", "--port", str(port), *options]
    return Outcome(start(programs, programs, *words, **variables))


def test_the_launcher_gets_every_number_that_two_numbers_mean(programs: Path, model: str) -> None:
    outcome = run(programs, model, HF_BATCH_SIZE="8", HF_SEQUENCE_LENGTH="512", CUDA_VISIBLE_DEVICES="0,1")
    assert outcome.option("--model-id") == model
    assert outcome.option("--max-batch-size") == "8"
    assert outcome.option("--max-total-tokens") == "512"
    assert outcome.option("--max-input-tokens") == "511"
    assert outcome.option("--max-batch-prefill-tokens") == "512"
    assert outcome.option("--waiting-served-ratio") == "0.0"
    assert outcome.option("--num-shard") == "1"
    assert "--max-batch-total-tokens" not in outcome.arguments


def test_the_launcher_finds_the_shard_of_an_environment_that_is_not_active(
    programs: Path, model: str
) -> None:
    beside = Path(sys.executable).parent
    found = run(programs, model).variables["PATH"]
    assert found == f"{beside}:{programs}:/usr/bin:/bin"
    assert (
        run(programs, model, PATH=f"{programs}:{beside}:/bin").variables["PATH"]
        == f"{programs}:{beside}:/bin"
    )


def test_the_launcher_starts_one_shard_and_that_is_told_the_number_of_chips(
    programs: Path, model: str
) -> None:
    outcome = run(programs, model, "--num-shard", "4", "--dry-run")
    assert "--num-shard 1 " in outcome.output
    assert "HF_NUM_CHIPS=4 " in outcome.output


def test_the_dtype_of_the_cache_passes_by_launchers_that_do_not_know_it(tmp_path: Path, model: str) -> None:
    old = install(tmp_path / "old", "1.4.5", "text-generation-router 1.4.5")
    for outcome in (
        run(old, model, "--kv-cache-dtype", "int8"),
        run(old, model, KV_CACHE_DTYPE="int8", TPU_TGI_KV_CACHE_DTYPE="fp8_e5m2"),
    ):
        assert outcome.variables["TPU_TGI_KV_CACHE_DTYPE"] == "int8"
        assert "KV_CACHE_DTYPE" not in outcome.variables
        assert "--kv-cache-dtype" not in outcome.arguments
    refused = run(old, model, "--kv-cache-dtype", "fp8")
    assert refused.exit_code != 0
    assert "'fp8_e4m3fn', 'fp8_e5m2', 'int8'" in refused.output


def test_a_batch_size_that_nobody_chose_is_left_to_the_shard(programs: Path, model: str) -> None:
    outcome = run(programs, model)
    assert "--max-batch-size" not in outcome.arguments
    assert "--max-concurrent-requests" not in outcome.arguments


def test_the_command_line_of_the_old_readme_reaches_the_launcher(programs: Path, model: str) -> None:
    outcome = run(programs, model, *OLD_README, LOG_LEVEL="text_generation_router=debug")
    assert outcome.exit_code == 0
    assert outcome.option("--max-batch-size") == "1"
    assert outcome.option("--max-total-tokens") == "1024"
    assert outcome.option("--max-input-tokens") == "512"
    assert outcome.option("--max-batch-prefill-tokens") == "512"
    assert outcome.option("--max-batch-total-tokens") == "1024"
    assert outcome.option("--max-concurrent-requests") == "1"
    assert "--max-input-length" not in outcome.arguments
    assert outcome.variables["LOG_LEVEL"] == "text_generation_router=debug"


def test_an_old_launcher_is_told_under_the_name_that_it_knows(tmp_path: Path, model: str) -> None:
    programs = install(tmp_path / "old", "1.4.5", "text-generation-router 1.4.5")
    outcome = run(programs, model, "--max-input-tokens", "100")
    assert outcome.option("--max-input-length") == "100"
    assert "--max-input-tokens" not in outcome.arguments


@pytest.mark.parametrize(
    ("router", "total"),
    [
        ("text-generation-router-v3 3.3.7", None),
        ("text-generation-router-v3 3.3.6-dev0", None),
        ("text-generation-router-v3 2.3.1", "2048"),
        ("text-generation-router-v2 3.3.7", "2048"),
        ("text-generation-router 2.0.4", "2048"),
    ],
)
def test_a_router_that_does_not_ask_the_shard_is_told_the_lengths(
    tmp_path: Path, router: str, total: str | None
) -> None:
    outcome = run(install(tmp_path / "bin", router=router), "someone/model-that-is-not-here")
    assert outcome.exit_code == 0, outcome.output
    told = "--max-total-tokens" in outcome.arguments
    assert (outcome.option("--max-total-tokens") if told else None) == total
    assert ("--max-input-tokens" in outcome.arguments) == told


def test_a_v2_router_may_not_prefill_more_than_its_slots_hold(tmp_path: Path, model: str) -> None:
    options = ["--max-batch-size", "2", "--max-total-tokens", "100", "--max-batch-prefill-tokens", "300"]
    assert run(install(tmp_path / "v3"), model, *options).exit_code == 0
    outcome = run(install(tmp_path / "v2", router="text-generation-router-v2 3.3.7"), model, *options)
    assert outcome.exit_code == 1
    assert outcome.output == (
        "Error: `--max-batch-prefill-tokens 300` is more than 2 slots of 100 tokens may hold: "
        "`--max-batch-prefill-tokens 200` would work\n"
    )


def test_what_only_the_launcher_knows_reaches_it_as_it_came(programs: Path, model: str) -> None:
    outcome = run(programs, model, "--rope-factor", "2", "--cuda-graphs=0", "--env", "--usage-stats", "off")
    assert outcome.arguments[-6:] == [
        "--rope-factor",
        "2",
        "--cuda-graphs=0",
        "--env",
        "--usage-stats",
        "off",
    ]


def test_speculation_reaches_the_launcher(programs: Path, model: str) -> None:
    assert run(programs, model, "--speculate", "4").option("--speculate") == "4"
    assert "--speculate" not in run(programs, model).arguments


def test_int8_reaches_the_stock_launcher_by_the_name_that_it_has_there(programs: Path, model: str) -> None:
    assert run(programs, model, "--quantize", "int8").option("--quantize") == "eetq"
    assert run(programs, model, "--quantize", "fp8").option("--quantize") == "fp8"


def test_what_both_know_reaches_it_too(programs: Path, model: str) -> None:
    outcome = run(
        programs,
        model,
        *("--json-output", "--max-best-of", "3", "--cors-allow-origin", "a", "--cors-allow-origin", "b"),
    )
    assert outcome.option("--max-best-of") == "3"
    assert outcome.arguments.count("--json-output") == 1
    origins = [
        outcome.arguments[i + 1] for i, word in enumerate(outcome.arguments) if word.startswith("--cors")
    ]
    assert origins == ["a", "b"]
    assert "--max-stop-sequences" not in outcome.arguments


def test_variables_that_the_launcher_would_stumble_over_are_put_right(programs: Path, model: str) -> None:
    outcome = run(
        programs,
        model,
        JSON_OUTPUT="1",
        TRUST_REMOTE_CODE="",
        MAX_INPUT_LENGTH="100",
        MAX_BATCH_SIZE="",
        REVISION="main",
    )
    assert outcome.variables["JSON_OUTPUT"] == "true"
    assert outcome.variables["REVISION"] == "main"
    assert not {"TRUST_REMOTE_CODE", "MAX_INPUT_LENGTH", "MAX_BATCH_SIZE"} & set(outcome.variables)
    assert outcome.option("--max-input-tokens") == "100"
    assert "--max-batch-size" not in outcome.arguments


def test_the_level_of_the_log_is_told_as_rust_programs_know_it(programs: Path, model: str) -> None:
    assert run(programs, model, "--log-level", "WARNING").variables["LOG_LEVEL"] == "warn"
    assert run(programs, model, LOG_LEVEL="DEBUG").variables["LOG_LEVEL"] == "debug"


def test_signals_and_exit_codes_are_the_launchers_own(programs: Path, model: str) -> None:
    assert run(programs, model, FAKE_EXIT_CODE="3").exit_code == 3
    process = start(programs, programs, "--model-id", model, "--port", "0", FAKE_RUNS="1")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert f"pid {process.pid}\n" in lines
    assert "running\n" in lines
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 7
    process.stdout.close()


def test_a_prometheus_port_in_use_is_replaced_by_a_free_one(programs: Path, model: str) -> None:
    with socket.socket() as other:
        # Taken by somebody else perhaps, which will do as well.
        if other.connect_ex(("127.0.0.1", 9000)) != 0:
            other = socket.create_server(("127.0.0.1", 9000))
        with other:
            outcome = run(programs, model)
            assert int(outcome.option("--prometheus-port")) != 9000
            refused = run(programs, model, "--prometheus-port", "9000")
            assert refused.exit_code == 1
            assert "Error: `--prometheus-port 9000` is in use: `--prometheus-port " in refused.output


def test_a_port_in_use_is_found_before_the_launcher_is_started(programs: Path, model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        outcome = run(programs, model, "--port", port)
    assert outcome.exit_code == 1
    assert f"`--hostname 127.0.0.1 --port {port}` cannot be used: Address already in use" in outcome.output


def test_float32_is_refused_because_the_launcher_does_not_know_it(programs: Path, model: str) -> None:
    outcome = run(programs, model, "--dtype", "float32")
    assert outcome.exit_code == 1
    assert "`--dtype float32` is not known to the stock launcher" in outcome.output


def test_programs_that_cannot_run_are_named(tmp_path: Path, model: str) -> None:
    programs = install(tmp_path / "bin")
    (programs / "text-generation-router").write_text(
        "#!/bin/sh\necho 'libpython3.9.so: cannot open' >&2; exit 127\n"
    )
    outcome = run(programs, model)
    assert outcome.exit_code == 1
    assert f"`{programs}/text-generation-router --version` does not tell its version" in outcome.output
    assert (
        "libpython3.9.so: cannot open. Repair it, take it out of PATH, or use `--embedded`" in outcome.output
    )


def test_a_dry_run_prints_the_command_and_starts_nothing(programs: Path, model: str) -> None:
    outcome = run(programs, model, *OLD_README, "--rope-factor", "2", "--dry-run", MAX_BATCH_SIZE="1")
    assert outcome.exit_code == 0
    assert outcome.arguments == []
    assert "  batch size                 1                  `MAX_BATCH_SIZE=1`" in outcome.lines
    assert "  longest prompt             512                `--max-input-length 512`" in outcome.lines
    assert "text-generation-launcher 3.3.7 and text-generation-router 3.3.7 (v3):" in outcome.lines
    command = outcome.lines[-1]
    assert f"{programs}/text-generation-launcher --num-shard 1 --max-batch-size 1" in command
    assert command.endswith(" --rope-factor 2")


def test_help_goes_on_with_the_launchers_own(programs: Path) -> None:
    outcome = Outcome(start(programs, programs, "--help"))
    assert outcome.exit_code == 0
    ours, stock = outcome.output.split("Usage of the stock launcher: --quantize")
    assert "--max-batch-size" in ours
    assert stock.strip() == ""
