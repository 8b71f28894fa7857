"""The command lines of stock launchers, as they spawn them (protocol sections 6.1 to 6.5)."""

from pathlib import Path

import pytest
import typer.testing

from text_generation_server import cli, shard
from text_generation_server.settings import Settings

from .shard_process import launcher_records, run_to_its_end, serving, spelling_checkpoint

RUNNER = typer.testing.CliRunner()

LOGGING = "--logger-level INFO --json-output"
TRACING = "--otlp-endpoint http://localhost:4317 --otlp-service-name text-generation-inference.router"

SERVE = {
    "1.4.2": f"{LOGGING} --trust-remote-code --speculate 0 --dtype bfloat16 --revision main "
    "--otlp-endpoint localhost:4317",
    "2.4.1": f"{LOGGING} --dtype bfloat16 --revision main {TRACING} --max-input-tokens 100",
    "3.3.7": "--logger-level WARN --json-output --trust-remote-code --speculate 0 --dtype bfloat16 "
    f"--revision main {TRACING} --max-input-tokens 100",
    "3.3.7 with nothing set": f"{LOGGING} --otlp-service-name text-generation-inference.router",
}

DOWNLOAD = {
    "1.4.2": f"--extension .safetensors {LOGGING} --revision main --trust-remote-code",
    "2.4.1": f"--extension .safetensors {LOGGING} --revision main --trust-remote-code",
    "3.3.7": f"--extension .safetensors {LOGGING} --merge-lora --revision main --trust-remote-code",
}

LAUNCHER_ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    "CUDA_MEMORY_FRACTION": "1",
    "SAFETENSORS_FAST_GPU": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    "ATTENTION": "paged",
    "PREFIX_CACHING": "1",
    "CUDA_GRAPHS": "1,2,4,8,16,32",
    "MAX_TOTAL_TOKENS": "128",
    "MAX_BATCH_SIZE": "2",
    "DISABLE_CUSTOM_KERNELS": "True",
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been served; the process itself goes on."""
    settings: list[Settings] = []

    def note(given: Settings) -> int:
        settings.append(given)
        return 0

    monkeypatch.setattr(shard, "serve", note)
    monkeypatch.setattr(cli, "configure_logging", lambda level, json_output: None)

    def end(exit_code: int) -> None:
        raise typer.Exit(exit_code)

    monkeypatch.setattr(cli, "end_process", end)
    for name in LAUNCHER_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return settings


@pytest.mark.parametrize("version", SERVE)
def test_serve_takes_every_flag_of_a_launcher(version: str, served: list[Settings]) -> None:
    command = f"serve some/model --uds-path /tmp/x {SERVE[version]}".split()
    outcome = RUNNER.invoke(cli.app, command, env=LAUNCHER_ENVIRONMENT)
    assert outcome.exit_code == 0, outcome.output
    settings = served[0]
    assert (settings.model_id, settings.socket_path) == ("some/model", "/tmp/x-0")
    assert (settings.batch_size, settings.max_length) == (2, 128)
    assert settings.dtype == ("bfloat16" if "--dtype" in command else None)
    assert settings.revision == ("main" if "--revision" in command else None)
    assert settings.max_input_tokens == (100 if "--max-input-tokens" in command else None)
    assert (settings.otlp_endpoint is not None) == ("--otlp-endpoint" in command)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sharded", "--num-shard 1"),
        (
            "--quantize exl2",
            "--quantize must be one of int8, eetq, bitsandbytes, fp8, gptq, awq, compressed-tensors. Given: exl2.",
        ),
        ("--speculate 17", "--speculate must be from 0 (off) to 16, for example 4. Given: 17"),
        (
            "--kv-cache-dtype fp8",
            "--kv-cache-dtype must be one of fp8_e4m3fn, fp8_e5m2, int8, or be left out: then the KV cache has the "
            "dtype of the model. Given: fp8",
        ),
        ("--dtype float64", "--dtype must be one of float16, bfloat16, float32. Given: float64"),
    ],
)
def test_serve_refuses_a_flag_that_it_cannot_honour(flags: str, message: str, served: list[Settings]) -> None:
    outcome = RUNNER.invoke(cli.app, ["serve", "some/model", *flags.split()])
    assert outcome.exit_code == 1
    assert message in outcome.stderr
    assert not served


@pytest.mark.parametrize("version", DOWNLOAD)
def test_download_weights_takes_every_flag_of_a_launcher(version: str, tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    outcome = run_to_its_end(
        "download-weights", str(model), *DOWNLOAD[version].split(), **LAUNCHER_ENVIRONMENT
    )
    assert outcome.returncode == 0, outcome.stderr
    assert launcher_records(outcome.stdout) == [("INFO", f"{model} is in {model}")]
    assert outcome.stderr == ""


def test_a_launchers_shard_logs_json_and_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path, *SERVE["3.3.7 with nothing set"].split(), **LAUNCHER_ENVIRONMENT) as (
        process,
        path,
    ):
        process.terminate()
        stdout, stderr = process.communicate(timeout=10)
    assert ("INFO", f"Server started at unix://{path}") in launcher_records(stdout)
    assert stderr == ""


def test_that_code_of_a_model_is_never_run_is_said_in_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, *SERVE["3.3.7"].split(), SKIP_WARMUP="1") as (process, _):
        process.terminate()
        stdout, _ = process.communicate(timeout=10)
    records = launcher_records(stdout)
    # The level WARN of this launcher hides everything below.
    assert {level for level, _ in records} == {"WARNING"}
    text = " ".join(text for _, text in records)
    assert "--trust-remote-code: code from a model's repository is never run" in text


def test_an_error_is_one_line_for_the_launcher_and_one_for_the_terminal(tmp_path: Path) -> None:
    outcome = run_to_its_end("serve", str(tmp_path), "--json-output", HF_BATCH_SIZE="0")
    message = "HF_BATCH_SIZE must be an integer of at least 1. Given: 0"
    assert outcome.returncode == 1
    assert launcher_records(outcome.stdout) == [("ERROR", message)]
    assert outcome.stderr == f"Error: {message}\n"


def test_without_json_the_log_is_plain_text(tmp_path: Path) -> None:
    outcome = run_to_its_end("serve", str(tmp_path))
    assert outcome.returncode == 1
    assert " ERROR " in outcome.stdout
    assert "config.json" in outcome.stdout
    assert not outcome.stdout.startswith("{")


@pytest.mark.parametrize("trust", [[], ["--trust-remote-code"]])
def test_a_model_with_code_of_its_own_is_refused_if_its_type_is_not_supported(
    tmp_path: Path, trust: list[str]
) -> None:
    model = spelling_checkpoint(tmp_path / "model", "UNSUPPORTED")
    (model / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "modeling_odd.Odd"}}')
    uds_path = str(tmp_path / "shard")
    outcome = run_to_its_end("serve", str(model), "--uds-path", uds_path, "--json-output", *trust)
    assert outcome.returncode == 1
    level, text = launcher_records(outcome.stdout)[-1]
    assert level == "ERROR"
    assert text.startswith("model type 'odd' is not supported")
    assert "auto_map" in text
    assert "Traceback" not in outcome.stderr


def test_a_config_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model", "UNSUPPORTED")
    (model / "config.json").write_text("{")
    outcome = run_to_its_end("serve", str(model), "--uds-path", str(tmp_path / "shard"), "--json-output")
    assert outcome.returncode == 1
    assert launcher_records(outcome.stdout)[-1][1].startswith(f"config.json in {model} cannot be read: ")
    assert "Traceback" not in outcome.stderr


def test_a_defect_shows_its_traceback_in_both_places(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model", "CRASH")
    outcome = run_to_its_end("serve", str(model), "--uds-path", str(tmp_path / "shard"), "--json-output")
    assert outcome.returncode == 1
    for place in (launcher_records(outcome.stdout)[-1][1], outcome.stderr):
        assert "Traceback" in place
        assert "ZeroDivisionError: a defect in the loader" in place
