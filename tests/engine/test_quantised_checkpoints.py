"""Checkpoints that come quantised give what transformers gives from the numbers that they mean."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from support import engines
from support.checkpoints import generate, save
from support.driver import Driver
from support.quantised_checkpoints import PACKED, mxfp4, packed
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.errors import InvalidSettingError, UnsupportedModelError
from tpu_tgi.parameters.model import Checkpoint as LauncherCheckpoint

CHANCE = random.Random(6)
PROMPT = [CHANCE.randrange(3, 160) for _ in range(21)]
LENGTH = 64
COUNT = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model"), tie_word_embeddings=False)


@pytest.mark.parametrize("name", PACKED)
def test_a_quantised_checkpoint_generates_what_transformers_does_from_its_numbers(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    directory = packed(checkpoint, tmp_path, name)
    reference = AutoModelForCausalLM.from_pretrained(directory / "meant", dtype=torch.float32)
    loader = engines.loader(directory, batch_size=2, max_length=LENGTH, skip_warmup=True)
    engine = loader.load()
    driver = Driver(engine)
    run = driver.join(1, PROMPT)
    driver.step(COUNT)
    expected = generate(reference, PROMPT, COUNT)
    assert run.tokens == expected.tokens
    torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=0, atol=1e-3)
    wanted = (
        "int4"
        if "4" in name or "gptq" in name or "awq" in name
        else "int8"
        if "w8" in name
        else "float8_e4m3fn"
    )
    assert loader.description.weights["model.layers.0.mlp.up_proj.weight"].dtype == wanted


@pytest.mark.parametrize("name", ["gptq with zeros and act order", "fp8 in blocks"])
def test_several_chips_share_groups(name: str, checkpoint: Path, tmp_path: Path) -> None:
    directory = packed(checkpoint, tmp_path, name)
    reference = AutoModelForCausalLM.from_pretrained(directory / "meant", dtype=torch.float32)
    engine = engines.loader(directory, batch_size=2, max_length=LENGTH, chips=2, skip_warmup=True).load()
    driver = Driver(engine)
    run = driver.join(0, PROMPT)
    driver.step(COUNT)
    assert run.tokens == generate(reference, PROMPT, COUNT).tokens


@pytest.mark.parametrize("chips", [1, 2])
def test_experts_in_mxfp4_give_what_transformers_gives_from_their_numbers(chips: int, tmp_path: Path) -> None:
    # Two chips part a group of 32 inputs.
    directory = mxfp4(save("gpt_oss", tmp_path / "model", intermediate_size=96), tmp_path / "packed")
    numbers = Mxfp4Config(dequantize=True)
    reference = AutoModelForCausalLM.from_pretrained(
        directory, quantization_config=numbers, dtype=torch.float32
    ).float()
    loader = engines.loader(directory, batch_size=2, max_length=LENGTH, chips=chips, skip_warmup=True)
    driver = Driver(loader.load())
    run = driver.join(1, PROMPT)
    driver.step(COUNT)
    expected = generate(reference, PROMPT, COUNT)
    assert run.tokens == expected.tokens
    torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda t: t.pop("model.layers.0.mlp.experts.down_proj_scales"),
            r"1 tensors are missing, for example .*0\.mlp\.experts\.down_proj",
        ),
        (
            lambda t: t["model.layers.1.mlp.experts.down_proj_scales"].fill_(255),
            r"layers\.1\.mlp\.experts\.down_proj_blocks: it has exponents that are no numbers",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.down_proj_scales": torch.ones(4, 64, 2)}),
            r"layers\.1\.mlp\.experts\.down_proj_scales has the shape \[4, 64, 2\], and .* \[4, 64, 3\]",
        ),
    ],
    ids=["missing", "no number", "shape"],
)
def test_damaged_experts_in_mxfp4_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], named: str, tmp_path: Path
) -> None:
    directory = mxfp4(save("gpt_oss", tmp_path / "model", intermediate_size=96), tmp_path / "packed")
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=named):
        engines.loader(directory, batch_size=1, max_length=LENGTH, skip_warmup=True).load()


def test_experts_that_come_quantised_otherwise_are_refused_with_what_works(tmp_path: Path) -> None:
    directory = save("mixtral", tmp_path)
    tensors = load_file(directory / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        parts, _ = PACKED["compressed-tensors fp8"].pack(tensors.pop(name))
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = PACKED["compressed-tensors fp8"].config
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"experts\.0\.w1\.weight, an expert, .* --quantize int8"):
        engines.loader(directory)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "exl2"}, "quant_method 'exl2'"),
        ({"quant_method": "gptq", "bits": 3}, "gptq with bits=3"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"lm_head": {}}}, "(dynamic)"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq with version='gemv'"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors with 0 kinds"),
        ({"bits": 4}, "quant_method None"),
        ("gptq", "quant_method 'gptq'"),
    ],
)
def test_a_format_that_is_not_read_is_refused_with_the_list(
    config: Any, named: str, checkpoint: Path, tmp_path: Path
) -> None:
    directory = save("llama", tmp_path)
    edit_config(directory, quantization_config=config)
    with pytest.raises(UnsupportedModelError) as caught:
        engines.loader(directory)
    assert named in str(caught.value)
    assert "Supported: gptq and awq with 4 bits, compressed-tensors" in str(caught.value)


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


LAYER = "model.layers.1.mlp.up_proj"
Change = Callable[[dict[str, torch.Tensor]], Any]
DAMAGED: dict[str, tuple[str, Change, str]] = {
    "a scale that is not finite": (
        "gptq",
        lambda t: t[f"{LAYER}.scales"].__setitem__((0, 3), float("nan")),
        f"{LAYER}.scales has values that are no scales",
    ),
    "negative scales": (
        "fp8 in blocks",
        lambda t: t[f"{LAYER}.weight_scale_inv"].neg_(),
        f"{LAYER}.weight_scale_inv has values that are no scales",
    ),
    "no scales": ("awq", lambda t: t.pop(f"{LAYER}.scales"), f"{LAYER} has no scales"),
    "too few scales": (
        "compressed-tensors w4a16",
        lambda t: t.update({f"{LAYER}.weight_scale": t[f"{LAYER}.weight_scale"][:5].clone()}),
        "has weight_scale of the shape",
    ),
    "other groups than config.json has": (
        "awq",
        lambda t: t.update({f"{LAYER}.scales": t[f"{LAYER}.scales"][:1].clone()}),
        "config.json says group_size=32",
    ),
    "zeros in a symmetric checkpoint": (
        "gptq",
        lambda t: t[f"{LAYER}.qzeros"].zero_(),
        "qzeros are not in the middle",
    ),
    "an order that config.json does not mention": (
        "gptq",
        lambda t: t[f"{LAYER}.g_idx"].copy_(t[f"{LAYER}.g_idx"].flip(0)),
        "desc_act=false",
    ),
    "groups of several sizes": (
        "gptq with zeros and act order",
        lambda t: t[f"{LAYER}.g_idx"].zero_(),
        "does not give each group 32 inputs",
    ),
    "values of another type": (
        "fp8 for each tensor",
        lambda t: t.update({f"{LAYER}.weight": torch.zeros(96, 64, dtype=torch.int8)}),
        "has weight of type I8, which should be F8_E4M3",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_layer_is_refused_by_name(damage: str, checkpoint: Path, tmp_path: Path) -> None:
    name, change, said = DAMAGED[damage]
    directory = packed(checkpoint, tmp_path, name)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError) as caught:
        engines.loader(directory, batch_size=1, max_length=LENGTH, skip_warmup=True).load()
    assert LAYER in str(caught.value)
    assert said in str(caught.value)


def test_files_of_a_checkpoint_that_is_not_quantised_are_refused_where_config_json_says_it_is(
    tmp_path: Path,
) -> None:
    directory = save("llama", tmp_path)
    edit_config(directory, quantization_config=PACKED["gptq"].config)
    with pytest.raises(UnsupportedModelError, match=r"says gptq, and no tensor .* is called \*\.qweight"):
        engines.loader(directory)


@pytest.mark.parametrize("quantize", ["int8", "eetq", "awq", "fp8"])
def test_another_word_of_quantize_than_the_checkpoints_own_is_refused(
    quantize: str, checkpoint: Path, tmp_path: Path
) -> None:
    directory = packed(checkpoint, tmp_path, "gptq")
    with pytest.raises(InvalidSettingError) as caught:
        engines.loader(directory, quantize=quantize)
    assert f"--quantize {quantize} contradicts the checkpoint, which comes as gptq" in str(caught.value)
    assert str(caught.value).endswith("use --quantize gptq")


@pytest.mark.parametrize(("name", "quantize"), [("gptq", "gptq"), ("fbgemm_fp8", "fp8")])
def test_the_word_that_the_launcher_passes_unasked_is_taken(
    name: str, quantize: str, checkpoint: Path, tmp_path: Path
) -> None:
    assert engines.loader(packed(checkpoint, tmp_path, name), quantize=quantize).source.made is None


def test_a_word_for_checkpoints_that_come_so_is_refused_where_this_one_does_not(checkpoint: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"--quantize awq is for .* Use --quantize int8 or"):
        engines.loader(checkpoint, quantize="awq")


@pytest.mark.parametrize(("name", "quantize"), [("gptq with zeros and act order", None), ("", "int8")])
def test_a_dry_run_counts_what_the_engine_counts(
    name: str, quantize: str | None, checkpoint: Path, tmp_path: Path
) -> None:
    directory = packed(checkpoint, tmp_path, name) if name else checkpoint
    counted = LauncherCheckpoint(directory, json.loads((directory / "config.json").read_text()))
    need = counted.need("float32", CacheLayout.HEADS, quantize)
    assert need is not None
    assert need.weights == engines.loader(directory, quantize=quantize).memory_need().weights


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("recipe", ["granitemoe", "qwen2_moe", "mxfp4"])
def test_a_dry_run_counts_experts(recipe: str, quantize: str | None, tmp_path: Path) -> None:
    if recipe == "mxfp4":
        directory = mxfp4(save("gpt_oss", tmp_path / "model", intermediate_size=96), tmp_path / "packed")
    else:
        directory = save(recipe, tmp_path)
    counted = LauncherCheckpoint(directory, json.loads((directory / "config.json").read_text()))
    need = counted.need("float32", CacheLayout.HEADS, quantize)
    assert need is not None
    assert need.weights == engines.loader(directory, quantize=quantize).memory_need().weights
