"""A request with a LoRA adapter is answered as PEFT answers it, whatever adapters the other slots use."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from support import engines
from support.checkpoints import generate, save
from support.driver import Driver, score
from support.lora_adapters import Oracle, save_adapter
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.sampling.parameters import SamplingParameters, WatermarkStrength

LENGTH = 64
PLAIN = SamplingParameters()
# Ranks, targets and scales that differ; "everything" includes the head, which is tied to the embedding in some.
ADAPTERS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "everything": {"r": 7, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["o_proj", "down_proj", "lm_head"],
        "rank_pattern": {"down_proj": 5},
        "alpha_pattern": {"layers.1.mlp.down_proj": 9, "o_proj": 1},
        "layers_to_transform": None,
    },
}


# What differs here is how linear layers are written and named, and what comes after the head: layers of their own,
# fused ones, GPT-2's transposed ones, biases, and logits that are scaled or bounded.
@pytest.mark.parametrize(
    "model_type",
    [
        "cohere",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "phi3",
        "qwen2",
        "starcoder2",
    ],
)
def test_an_architecture_scores_a_prompt_with_an_adapter_as_peft_does(
    model_type: str, tmp_path: Path
) -> None:
    checkpoint = save(model_type, tmp_path / "model")
    adapters = {
        name: save_adapter(checkpoint, tmp_path / name, seed, r=rank, target_modules="all-linear")
        for seed, (name, rank) in enumerate({"one": 3, "two": 8}.items())
    }
    engine = engines.loader(
        checkpoint,
        batch_size=1,
        max_length=LENGTH,
        scores_prompts=True,
        adapters=[*adapters.items()],
        skip_warmup=True,
    ).load()
    ids = random.Random(model_type).choices(range(3, 160), k=30)
    oracle = Oracle(checkpoint, adapters)
    for name in (None, *adapters):
        scored = torch.tensor(score(engine, 0, ids, name))
        expected = oracle.logprobs(name, ids)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1))[:, 0]
        torch.testing.assert_close(scored, expected, rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Served:
    """An engine with adapters, warmed up, and its oracle."""

    engine: StaticBatchEngine
    oracle: Oracle


# Qwen 2 has biases, and a head that is tied to the embedding when asked.
@pytest.fixture(
    scope="module", params=[("llama", {}), ("qwen2", {"tie_word_embeddings": True})], ids=lambda p: p[0]
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    model_type, changes = request.param
    directory = tmp_path_factory.mktemp(model_type)
    checkpoint = save(model_type, directory / "model", **changes)
    paths = {
        name: save_adapter(checkpoint, directory / name, seed, **config)
        for seed, (name, config) in enumerate(ADAPTERS.items())
    }
    engine = engines.engine(
        checkpoint, batch_size=3, max_length=LENGTH, scores_prompts=True, adapters=[*paths.items()]
    )
    return Served(engine, Oracle(checkpoint, paths))


@pytest.fixture
def driver(served: Served) -> Iterator[Driver]:
    driver = Driver(served.engine)
    yield driver
    for slot in list(driver.running):
        driver.leave(slot)
    assert served.engine.statistics().compilations_after_warm_up == 0


def test_requests_of_all_adapters_and_of_none_share_a_batch_and_reuse_slots(
    served: Served, driver: Driver
) -> None:
    chance = random.Random(1)
    names = [*ADAPTERS, None] * 3
    chance.shuffle(names)
    runs = []
    for turn, name in enumerate(names):
        slot = turn % 3
        if slot in driver.running:
            driver.leave(slot)
        prompt = chance.choices(range(3, 160), k=chance.randint(1, 40))
        runs.append((name, prompt, driver.join(slot, prompt, adapter=name)))
        driver.step(4)
    driver.step(8)
    for name, prompt, run in runs:
        expected = generate(served.oracle.model(name), prompt, 12)
        assert run.tokens[:12] == expected.tokens, name
        torch.testing.assert_close(run.logprobs[:12], expected.logprobs, rtol=0, atol=1e-4)


def test_a_prompt_is_scored_with_its_adapter(served: Served, driver: Driver) -> None:
    prompt = [9, 30, 77, 4, 120, 8, 8, 31]
    for name in (None, *ADAPTERS):
        scores = served.oracle.logprobs(name, prompt)
        expected = [float(row[token]) for row, token in zip(scores, prompt[1:], strict=False)]
        assert score(served.engine, 0, prompt, name) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_that_is_not_loaded_is_refused_by_the_engine(served: Served) -> None:
    with pytest.raises(ValueError, match=r"no adapter 'other'\. Loaded: attention, everything, patterns"):
        served.engine.fill(0, [1, 2], PLAIN, adapter="other")


def test_without_adapters_the_programs_take_nothing_of_them(tmp_path: Path) -> None:
    loader = engines.loader(save("llama", tmp_path), batch_size=2, max_length=LENGTH)
    options = ProgramOptions(loader.shape(2, LENGTH), WatermarkStrength(), exact_float32=False)
    lowering = LoweringHere()
    lowering.describe(loader.source)
    for program in lowering.lower(options, ["extend 1x32", "seat", "forward 64"]):
        assert not any(
            "lora" in parameter.name or "adapter" in parameter.name for parameter in program.parameters
        )
