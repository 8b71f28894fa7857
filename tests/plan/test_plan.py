"""`tpu-tgi plan` says what fits on a TPU, what does not and why, and with which command to start."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.hf_api
import pytest
import torch
import typer
import typer.testing
from transformers import AutoConfig, AutoModelForCausalLM

from support.checkpoints import save
from text_generation_server.engine.sharding import Sharding
from text_generation_server.lowering.lowered import LoweredProgram
from tpu_tgi.plan import command, planning
from tpu_tgi.plan.programs import CompilationError, ProgramCost
from wire.small_hub import MODEL, SmallHub, small_hub

LIBTPU = Path(__file__).parents[2] / ".libtpu"
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Headers, and a hole in the file where the weights would be."""
    directory = tmp_path_factory.mktemp("8b")
    config = AutoConfig.for_model("llama", **LLAMA_8B)
    config.save_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    headers: dict[str, Any] = {}
    size = 0
    for name, tensor in model.state_dict().items():
        end = size + 2 * tensor.numel()
        headers[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [size, end]}
        size = end
    header = json.dumps(headers).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return directory


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """In the place of libtpu: FLOPs are two for each number of the weights and each token, temporaries and code a
    megabyte; says what it was asked. Of experts it counts one, as libtpu does, which sees the loop over them once."""
    asked = []

    def cost(program: LoweredProgram, mesh: Any, sharding: Sharding) -> ProgramCost:
        asked.append((program.name, sharding.chips))
        weights = [parameter for parameter in program.parameters if parameter.source == "weight"]
        numbers = sum(
            torch.Size(weight.shape[1:] if ".experts." in weight.name else weight.shape).numel()
            for weight in weights
        )
        (tokens,) = (p.shape for p in program.parameters if p.name in ("tokens", "ids"))
        return ProgramCost(2**20, 2**20, 2.0 * numbers * torch.Size(tokens).numel() / sharding.chips, 1.0)

    monkeypatch.setattr(planning, "cost", cost)
    monkeypatch.setattr(planning, "mesh_for", lambda tpu, chips: None)
    monkeypatch.setattr(command, "find_spec", lambda package: package)
    return asked


def run(*arguments: str) -> typer.testing.Result:
    app = typer.Typer()
    app.command()(command.plan)
    return typer.testing.CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def planned(*arguments: str) -> dict[str, Any]:
    outcome = run(*arguments, "--json")
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_an_8b_fits_on_two_chips_of_16_gib_and_not_on_one(
    llama_8b: Path, compiler: list[tuple[str, int]]
) -> None:
    found = planned(str(llama_8b), "--tpu", "v5e-8")
    assert {choice["chips"] for choice in found["choices"]} == {2, 4, 8}
    assert found["refused"] == [
        "1 chip: 14.96 GiB of weights on each of 16.00 GiB, and 0.25 GiB of cache for one slot of 2048 tokens"
    ]
    # Two depths once, then one.
    assert [chips for _, chips in compiler] == [2, 2, 2, 2, 4, 4, 8, 8]
    on_two = [choice for choice in found["choices"] if choice["chips"] == 2]
    assert [choice["batch"] for choice in on_two[:-1]] == [4, 8, 16, 32]
    slots = on_two[0]
    assert slots["weights"] == pytest.approx(8_030_261_248, rel=0.001)
    assert slots["cache"] == 4 * (2048 * 32 * 2 * 1024 + 4 * 128256 // 2)
    # The embedding is looked up, not read.
    read = (2 * (8_030_261_248 - 128256 * 4096) + 4 * 2048 * 32 * 2 * 1024 * 2) / 2
    assert slots["step_bytes"] == pytest.approx(read, rel=0.001)
    assert slots["step_seconds"] == pytest.approx(read / 819e9, rel=0.001)
    assert slots["tokens_per_second"] == pytest.approx(4 / slots["step_seconds"])
    # What a layer adds was added for all others: all numbers are in it.
    # A piece has no logits, and so nothing of the last layer behind its keys and values.
    left_out = 128256 * 4096 + 2 * 4096 * 4096 + 3 * 4096 * 14336
    assert slots["piece_flops"] == pytest.approx(512 * (8_030_261_248 - left_out), rel=0.001)
    assert slots["piece_tokens"] == 512
    assert slots["command"].endswith("--num-shard 2 --max-batch-size 4 --max-total-tokens 2048")


@pytest.mark.usefixtures("compiler")
def test_fewer_bits_fit_on_one_chip(llama_8b: Path) -> None:
    found = planned(str(llama_8b), "--tpu", "v5e-1", "--quantize", "int8", "--batch", "8", "--length", "1024")
    (choice,) = found["choices"]
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert choice["weights"] == pytest.approx(linear + 2 * 2 * 128256 * 4096, rel=0.001)
    assert "--quantize int8" in choice["command"]
    cache = 8 * 1024 * 32 * 2 * 1024
    assert choice["cache"] == 2 * cache + 8 * 4 * 128256
    found = planned(
        *(str(llama_8b), "--tpu", "v5e-1", "--quantize", "int8", "--batch", "8", "--length", "1024"),
        *("--kv-cache-dtype", "int8"),
    )
    (smaller,) = found["choices"]
    # A byte for each number, and two for the scale of a head.
    assert smaller["cache"] == cache + cache // 128 * 2 + 8 * 4 * 128256
    assert smaller["command"].endswith("--quantize int8 --kv-cache-dtype int8")


@pytest.mark.usefixtures("compiler")
def test_a_step_of_few_slots_reads_the_experts_that_they_can_choose(tmp_path: Path) -> None:
    # 16 experts, of which a token has 2, in every second layer.
    save("qwen3_moe", tmp_path, num_hidden_layers=6, decoder_sparse_step=2)
    found = {}
    for batch in (4, 7):
        (found[batch],) = planned(str(tmp_path), "--tpu", "v5e-1", "--batch", str(batch), "--length", "128")[
            "choices"
        ]
    assert found[4]["weights"] == found[7]["weights"]
    six_of_the_experts = 3 * 6 * 3 * 64 * 32 * 2
    # Of the table too a step reads one row for each slot.
    more = six_of_the_experts + 3 * 64 * 2 + (found[7]["cache"] - found[4]["cache"]) - 3 * 160 * 4
    assert found[7]["step_bytes"] - found[4]["step_bytes"] == more
    # What a pair of layers adds was added for the other pairs: all numbers of the layers are in it. Each expert that is
    # read is multiplied with all tokens.
    of_an_expert = 3 * 3 * 64 * 32
    others = found[7]["weights"] / 2 - 16 * of_an_expert
    for batch, experts in ((4, 8), (7, 14)):
        flops = 2 * batch * (others + experts * of_an_expert)
        assert found[batch]["step_flops"] == pytest.approx(flops, rel=0.02)


@pytest.mark.usefixtures("compiler")
def test_a_table_and_a_plot_for_people(llama_8b: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="of the extra `plan`")
    plot = tmp_path / "plan.svg"
    outcome = run(str(llama_8b), "--tpu", "v6e-4", "--plot", str(plot))
    assert outcome.exit_code == 0, outcome.output
    assert "not a promise" in outcome.stdout
    assert "Compiled with 1 and 2 of 32 layers" in outcome.stdout
    assert f"tpu-tgi {llama_8b} --num-shard 4 --max-batch-size 128 --max-total-tokens 2048" in outcome.stdout
    assert "<svg" in plot.read_text()


@contextmanager
def on_the_hub(files: dict[str, bytes], cache: Path) -> Iterator[SmallHub]:
    """A hub with these files, in the place of the one that would be asked."""
    with small_hub(files) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        files_of = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files_of)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        yield hub


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("part_size", ["1GB", "300KB"])
def test_of_a_model_on_the_hub_the_headers_are_read_and_no_weights(tmp_path: Path, part_size: str) -> None:
    made = save("llama", tmp_path / "made", vocab_size=6000)
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(made).save_pretrained(model, max_shard_size=part_size)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    weights = [name for name in files if name.endswith(".safetensors")]
    assert len(weights) == (1 if part_size == "1GB" else 3)
    asked = ("--tpu", "v5e-1", "--batch", "8", "--length", "64")
    with on_the_hub(files, tmp_path / "cache") as hub:
        found = planned(MODEL, *asked)
    assert found["choices"][0]["command"].startswith(f"tpu-tgi {MODEL} ")
    here = planned(str(model), *asked)
    for plan in (found, here):
        del plan["model"], plan["choices"][0]["command"]
    assert found == here
    # huggingface_hub takes the first 100 kB of each file, in which most headers are.
    assert hub.sent < 110_000 * len(weights)
    assert sum(len(files[name]) for name in weights) > 1_500_000


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "404"),
        ({"config.json": b"{}"}, "is not a safetensors repo"),
        ({"config.json": b"{}", "model.safetensors": b"\xff" * 100}, "Failed to parse safetensors header"),
        (
            {"config.json": b"{}", "model.safetensors": struct.pack("<Q", 2) + b"{}"},
            "model type 'None' is not supported",
        ),
    ],
)
def test_what_is_no_model_on_the_hub_is_one_message(
    files: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with on_the_hub(files, tmp_path):
        outcome = run(MODEL, "--tpu", "v5e-1")
    assert outcome.exit_code == 1
    assert said in outcome.output
    assert len(outcome.output.splitlines()) == 1


@pytest.mark.usefixtures("compiler")
def test_the_text_part_of_a_model_that_sees_is_planned(tmp_path: Path) -> None:
    text = save("llama", tmp_path / "text", num_hidden_layers=4)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes((text / "model.safetensors").read_bytes())
    config = json.loads((text / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llava",
                "text_config": config,
                "tie_word_embeddings": config["tie_word_embeddings"],
            }
        )
    )
    asked = ("--tpu", "v5e-1", "--batch", "8", "--length", "64")
    found, of_text = planned(str(model), *asked), planned(str(text), *asked)
    assert found["layers_compiled"] == [1, 2]
    for plan in (found, of_text):
        del plan["model"], plan["choices"][0]["command"]
    assert found == of_text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--tpu", "v5e-3"],
            "`--tpu v5e-3` is not known. Use one of v5e-1, v5e-4, v5e-8, v6e-1, v6e-4, v6e-8",
        ),
        (["--tpu", "v5e-1"], "does not fit on v5e-1 with --length 2048"),
        (["--tpu", "v5e-1"], "--quantize int8 would fit"),
        (["--tpu", "v6e-1", "--batch", "4000"], "--batch 55 would fit"),
        (
            ["--tpu", "v5e-1", "--length", "200000"],
            "`--length 200000` is more than the model allows: use 131072",
        ),
        (["--tpu", "v5e-1", "--quantize", "exl2"], "`--quantize exl2` is not known. Use one of int8"),
        (["--tpu", "v5e-1", "--quantize", "awq"], "--quantize awq is for checkpoints that come so"),
        (["--tpu", "v5e-1", "--plot", "plan.pdf"], "must end in .png or .svg"),
    ],
)
@pytest.mark.usefixtures("compiler")
def test_what_cannot_be_is_one_message_with_what_would(
    llama_8b: Path, arguments: list[str], said: str
) -> None:
    outcome = run(str(llama_8b), *arguments)
    assert outcome.exit_code == 1
    assert said in outcome.output


def test_a_program_that_the_compiler_refuses_is_told_with_its_words(
    llama_8b: Path, compiler: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    working: Callable[..., ProgramCost] = vars(planning)["cost"]

    def refuse_two(program: LoweredProgram, mesh: Any, sharding: Sharding) -> ProgramCost:
        if sharding.chips == 2:
            raise CompilationError("Ran out of memory in memory space hbm")
        return working(program, mesh, sharding)

    monkeypatch.setattr(planning, "cost", refuse_two)
    found = planned(str(llama_8b), "--tpu", "v5e-4")
    assert "2 chips: Ran out of memory in memory space hbm" in found["refused"]
    assert {choice["chips"] for choice in found["choices"]} == {4}


def test_without_the_extra_the_command_says_how_to_get_it(
    llama_8b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda package: None)
    outcome = run(str(llama_8b), "--tpu", "v5e-1")
    assert outcome.exit_code == 1
    assert "libtpu is not installed: pip install 'tpu-tgi[plan]'" in outcome.output


@pytest.mark.skipif(not LIBTPU.is_dir(), reason="needs libtpu, which `make tpu-check` fetches")
def test_the_compiler_of_the_tpu_answers_for_a_small_model(tmp_path: Path) -> None:
    model = save("llama", tmp_path)
    outcome = subprocess.run(
        [sys.executable, "-m", "tpu_tgi", "plan", str(model), "--tpu", "v5e-1", "--batch", "8", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBTPU), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert outcome.returncode == 0, outcome.stderr
    (choice,) = json.loads(outcome.stdout)["choices"]
    assert choice["code"] > 0
    # Two for each number of the linear layers and the head, of each slot; attention is more.
    numbers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 160 * 64
    assert choice["step_flops"] > 2 * 8 * numbers


@pytest.mark.usefixtures("compiler")
def test_sliding_layers_are_planned_with_their_ring(tmp_path: Path) -> None:
    length, lanes = 8192, 128
    save("gemma3_text", tmp_path, max_position_embeddings=length)
    (choice,) = planned(str(tmp_path), "--tpu", "v5e-1", "--batch", "4", "--length", str(length))["choices"]
    # One layer keeps the window of 16 and two pieces of 512, and one keeps all; keys and values in bfloat16.
    assert choice["cache"] == 4 * ((16 + 2 * 512) + length) * lanes * 2 * 2 + 4 * 4 * 160
