"""Weights in fewer bits give what transformers gives from the numbers that these bits mean."""

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import generate, save
from support.driver import Driver, score
from support.lora_adapters import Oracle, save_adapter
from support.quantised_checkpoints import MADE, dequantised
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.loading.weights import load_weights
from text_generation_server.model.quantisation.scheme import MADE as SCHEMES
from text_generation_server.runtime.mesh import DeviceMesh

CHANCE = random.Random(5)
PROMPTS = [[CHANCE.randrange(3, 160) for _ in range(length)] for length in (2, 17, 33)]
LENGTH = 64
COUNT = 16

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Its layers store their weights the other way round.
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "qwen2 with biases and a tied head": ("qwen2", {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("quantize", MADE)
@pytest.mark.parametrize("model", MODELS)
def test_greedy_tokens_are_those_of_the_dequantised_weights(
    model: str, quantize: str, tmp_path: Path
) -> None:
    model_type, changes = MODELS[model]
    checkpoint = save(model_type, tmp_path / "model", **changes)
    reference = AutoModelForCausalLM.from_pretrained(dequantised(checkpoint, tmp_path / "oracle", quantize))
    driver = Driver(
        engines.loader(
            checkpoint, batch_size=3, max_length=LENGTH, quantize=quantize, skip_warmup=True
        ).load()
    )
    runs = [driver.join(slot, prompt) for slot, prompt in enumerate(PROMPTS)]
    driver.step(COUNT)
    for run, prompt in zip(runs, PROMPTS, strict=True):
        expected = generate(reference, prompt, COUNT)
        assert run.tokens == expected.tokens
        torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("recipe", ["gpt_oss", "mixtral", "qwen3_moe"])
def test_experts_in_int8_give_the_tokens_of_the_dequantised_weights(recipe: str, tmp_path: Path) -> None:
    checkpoint = save(recipe, tmp_path / "model")
    reference = AutoModelForCausalLM.from_pretrained(dequantised(checkpoint, tmp_path / "oracle", "int8"))
    for chips in (1, 2):
        loader = engines.loader(
            checkpoint, batch_size=2, max_length=LENGTH, quantize="int8", chips=chips, skip_warmup=True
        )
        driver = Driver(loader.load())
        runs = [driver.join(slot, prompt) for slot, prompt in enumerate(PROMPTS[1:])]
        driver.step(COUNT)
        for run, prompt in zip(runs, PROMPTS[1:], strict=True):
            assert run.tokens == generate(reference, prompt, COUNT).tokens
        matrices = [
            spec for name, spec in loader.description.weights.items() if name.endswith("experts.down")
        ]
        assert {spec.dtype for spec in matrices} == {"int8"}


def test_experts_in_fp8_are_refused_with_what_works(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"MixtralForCausalLM has experts, .* use --quantize int8"
    ):
        engines.loader(save("mixtral", tmp_path), quantize="fp8")


@pytest.mark.parametrize("chips", [2, 4])
def test_several_chips_share_weights_in_fewer_bits(chips: int, tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path / "model")
    reference = AutoModelForCausalLM.from_pretrained(dequantised(checkpoint, tmp_path / "oracle", "int8"))
    driver = Driver(
        engines.loader(
            checkpoint, batch_size=4, max_length=LENGTH, quantize="int8", chips=chips, skip_warmup=True
        ).load()
    )
    run = driver.join(0, PROMPTS[1])
    driver.step(COUNT)
    assert run.tokens == generate(reference, PROMPTS[1], COUNT).tokens


def test_adapters_are_added_to_weights_in_fewer_bits(tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path / "model")
    adapter = save_adapter(checkpoint, tmp_path / "one", 0, r=3, target_modules="all-linear")
    oracle = Oracle(dequantised(checkpoint, tmp_path / "oracle", "int8"), {"one": adapter})
    engine = engines.loader(
        checkpoint,
        batch_size=1,
        max_length=LENGTH,
        quantize="int8",
        scores_prompts=True,
        adapters=[("one", adapter)],
        skip_warmup=True,
    ).load()
    for name in (None, "one"):
        prompt = PROMPTS[2]
        expected = oracle.logprobs(name, prompt)[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1))[:, 0]
        scored = torch.tensor(score(engine, 0, prompt, name))
        torch.testing.assert_close(scored, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("dtype", "quantize"), [("bfloat16", "fp8"), ("float16", "int8")])
def test_half_precision_multiplies_weights_in_fewer_bits(dtype: str, quantize: str, tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path / "model")
    directory = dequantised(checkpoint, tmp_path / "oracle", quantize)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.loader(
        checkpoint,
        batch_size=1,
        max_length=LENGTH,
        dtype=dtype,
        quantize=quantize,
        scores_prompts=True,
        skip_warmup=True,
    ).load()
    prompt = PROMPTS[2]
    with torch.no_grad():
        scores = torch.log_softmax(reference(torch.tensor([prompt])).logits[0, :-1].float(), dim=-1)
    expected = scores.gather(1, torch.tensor(prompt[1:]).unsqueeze(1))[:, 0]
    torch.testing.assert_close(torch.tensor(score(engine, 0, prompt)), expected, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("quantize", MADE)
def test_the_need_counts_the_bytes_that_are_allocated(quantize: str, tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path)
    loader = engines.loader(checkpoint, quantize=quantize, skip_warmup=True)
    weights = load_weights(
        loader.description, loader.checkpoint, loader.mesh, loader.sharding, loader.layers()
    )
    assert loader.memory_need().weights == sum(buffer.nbytes for buffer in weights.values())
    assert weights["model.layers.0.mlp.up_proj.weight"].dtype == SCHEMES[quantize].values


def test_the_host_never_holds_more_than_a_tensor_and_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(
        "llama", tmp_path, vocab_size=500, hidden_size=512, intermediate_size=4096, num_hidden_layers=4
    )
    loader = engines.loader(checkpoint, quantize="int8")
    monkeypatch.setattr(
        DeviceMesh, "assemble", lambda self, name, shape, partition, read: read((slice(None),))
    )
    largest = max(int(np.prod(shape)) for shape in loader.checkpoint.shapes.values())
    kept = sum(weight.nbytes for weight in loader.description.weights.values())
    tracemalloc.start()
    load_weights(loader.description, loader.checkpoint, loader.mesh, loader.sharding, loader.layers())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The tensor in float32, what is made of it, and what is worked on in between.
    assert peak < kept + 2 * largest * 4


def test_a_weight_that_is_no_finite_number_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = save("llama", tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UnsupportedModelError,
        match=r"model\.layers\.1\.mlp\.up_proj\.weight: .*not finite",
    ):
        engines.loader(checkpoint, batch_size=1, quantize="int8", skip_warmup=True).load()
