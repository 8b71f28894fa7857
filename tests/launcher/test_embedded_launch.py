"""When the embedded launcher and router run, and what they refuse."""

import json
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start


@pytest.fixture
def model(tmp_path: Path) -> str:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 1024}))
    return str(directory)


def dry_run(programs: Path, model: str, *options: str, **variables: str) -> Outcome:
    return Outcome(start(programs, programs, "--model-id", model, "--dry-run", *options, **variables))


def runs_embedded(outcome: Outcome) -> bool:
    assert outcome.exit_code == 0, outcome.output
    return "Embedded launcher and router on http://" in outcome.output


@pytest.mark.parametrize(
    ("launcher", "router", "embedded"),
    [
        ("3.3.7", "text-generation-router-v3 3.3.7", False),
        (None, "text-generation-router-v3 3.3.7", True),
        ("3.3.7", None, True),
        (None, None, True),
    ],
)
def test_the_stock_programs_are_used_if_both_are_in_path(
    tmp_path: Path, model: str, launcher: str | None, router: str | None, embedded: bool
) -> None:
    programs = install(tmp_path / "bin", launcher, router)
    assert runs_embedded(dry_run(programs, model)) is embedded
    assert runs_embedded(dry_run(programs, model, "--embedded"))
    assert runs_embedded(dry_run(programs, model, EMBEDDED="1"))


@pytest.mark.parametrize(
    ("options", "variables", "name"),
    [
        (["--rope-factor", "2"], {}, "--rope-factor"),
        (["--cuda-graphs=0"], {}, "--cuda-graphs=0"),
        (["--prometheus-port", "9100"], {}, "--prometheus-port"),
        (["--no-such-option"], {}, "--no-such-option"),
        (["word"], {}, "word"),
        ([], {"ROPE_FACTOR": "2"}, "ROPE_FACTOR"),
        ([], {"NGROK": "true"}, "NGROK"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    tmp_path: Path, model: str, options: list[str], variables: dict[str, str], name: str
) -> None:
    outcome = dry_run(install(tmp_path / "bin", None, None), model, *options, **variables)
    assert outcome.exit_code == 1
    assert outcome.output == (
        f"Error: `{name}` cannot be served by the embedded launcher, which takes the options of `tpu-tgi --help`. "
        "Leave it out, or put text-generation-launcher and text-generation-router in PATH\n"
    )


@pytest.mark.parametrize("variables", [{}, {"HF_NUM_CHIPS": "4"}, {"NUM_SHARD": "4"}])
def test_the_number_of_chips_reaches_the_one_shard(
    tmp_path: Path, model: str, variables: dict[str, str]
) -> None:
    options = [] if variables else ["--num-shard", "4"]
    outcome = dry_run(install(tmp_path / "bin", None, None), model, *options, **variables)
    command = outcome.output.split("and the shard:\n")[1]
    assert "HF_NUM_CHIPS=4 " in command
    assert "WORLD_SIZE=1 " in command
    assert "--sharded" not in command


def test_two_numbers_of_chips_that_differ_are_refused(tmp_path: Path, model: str) -> None:
    outcome = dry_run(install(tmp_path / "bin", None, None), model, "--num-shard", "4", HF_NUM_CHIPS="8")
    assert outcome.exit_code == 1
    assert "`HF_NUM_CHIPS=8`" in outcome.output
    assert "`--num-shard 4`" in outcome.output


def test_options_of_the_shard_reach_its_environment(tmp_path: Path, model: str) -> None:
    outcome = dry_run(
        install(tmp_path / "bin", None, None),
        model,
        *("--lora-adapters", "a=/adapters/a", "--enable-prefill-logprobs", "--watermark-gamma", "0.25"),
        *("--kv-cache-dtype", "fp8_e4m3fn"),
        HF_BATCH_SIZE="2",
    )
    command = outcome.output.split("and the shard:\n")[1]
    for variable in (
        "LORA_ADAPTERS=a=/adapters/a",
        "REQUEST_LOGPROBS=1",
        "WATERMARK_GAMMA=0.25",
        "TPU_TGI_KV_CACHE_DTYPE=fp8_e4m3fn",
        "MAX_BATCH_SIZE=2",
        "MAX_TOTAL_TOKENS=1024",
    ):
        assert f"{variable} " in command
    assert "WATERMARK_DELTA" not in command
    assert f"text-generation-server serve {model} " in command
    assert "--max-input-tokens 1023" in command


@pytest.mark.parametrize(
    ("level", "meant"),
    [("debug", "DEBUG"), ("warn,text_generation_router=debug", "DEBUG"), ("Error", "ERROR")],
)
def test_filters_of_the_stock_programs_mean_a_level(
    tmp_path: Path, model: str, level: str, meant: str
) -> None:
    outcome = dry_run(install(tmp_path / "bin", None, None), model, LOG_LEVEL=level)
    assert f"--logger-level {meant} " in outcome.output


def test_a_dry_run_says_that_the_memory_is_not_known_before_the_weights_are_here(
    tmp_path: Path, model: str
) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "vocab_size": 16}
    (Path(model) / "config.json").write_text(json.dumps(shape))
    outcome = dry_run(install(tmp_path / "bin", None, None), model, HF_SEQUENCE_LENGTH="64")
    assert runs_embedded(outcome)
    assert f"not known: {model} has no weights yet" in outcome.output


def test_an_unknown_level_is_refused(tmp_path: Path, model: str) -> None:
    outcome = dry_run(install(tmp_path / "bin", None, None), model, "--log-level", "loud")
    assert outcome.exit_code == 1
    assert "`--log-level loud` must be one of TRACE, DEBUG, INFO" in outcome.output


def test_help_says_that_there_are_no_stock_programs(tmp_path: Path) -> None:
    outcome = Outcome(start(install(tmp_path / "bin", None, None), tmp_path, "--help"))
    assert outcome.exit_code == 0
    assert "text-generation-launcher and text-generation-router are not in PATH" in outcome.output
