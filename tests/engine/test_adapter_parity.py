"""A request with a LoRA adapter is answered as PEFT answers it, whatever adapters the other slots use."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import ARCHITECTURES, generate, save
from engine.driver import Driver
from engine.lora_adapters import Oracle, save_adapter
from text_generation_server.engine import programs
from text_generation_server.engine.engine import XlaEngine
from text_generation_server.model.adapters.adapted import AdaptedModel
from text_generation_server.model.adapters.reading import read_adapter
from text_generation_server.model.adapters.stacking import stack_adapters
from text_generation_server.model.checkpoint import load_config, load_model
from text_generation_server.model.load import place_on_device
from text_generation_server.sampling.parameters import SamplingParameters

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


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_each_architecture_scores_a_prompt_with_an_adapter_as_peft_does(
    model_type: str, tmp_path: Path
) -> None:
    checkpoint = save(model_type, tmp_path / "model")
    adapters = {
        name: save_adapter(checkpoint, tmp_path / name, seed, r=rank, target_modules="all-linear")
        for seed, (name, rank) in enumerate({"one": 3, "two": 8}.items())
    }
    loaded = load_model(checkpoint, load_config(checkpoint), LENGTH, torch.float32)
    read = [read_adapter(name, directory) for name, directory in adapters.items()]
    model = AdaptedModel(loaded.model, stack_adapters(loaded.model, read, torch.float32))
    ids = random.Random(model_type).choices(range(3, 160), k=30)
    oracle = Oracle(checkpoint, adapters)
    for index, name in enumerate([None, *adapters]):
        program = programs.score_prompt(
            model,
            len(loaded.cache_shape.layers),
            torch.tensor([ids], dtype=torch.int32),
            [torch.tensor([index], dtype=torch.int32)],
        )
        with torch.no_grad():
            (scored,) = program.function(program.arguments)
        expected = oracle.logprobs(name, ids)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1))[:, 0]
        torch.testing.assert_close(scored, expected, rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Served:
    """An engine with adapters, warmed up, and its oracle."""

    engine: XlaEngine
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
    loaded = load_model(checkpoint, load_config(checkpoint), LENGTH, torch.float32)
    engine = place_on_device(
        loaded,
        batch_size=3,
        scores_prompts=True,
        adapters=[read_adapter(name, path) for name, path in paths.items()],
    )
    engine.warm_up(lambda _: None)
    return Served(engine, Oracle(checkpoint, paths))


@pytest.fixture
def driver(served: Served) -> Iterator[Driver]:
    driver = Driver(served.engine)
    yield driver
    for slot in list(driver.running):
        driver.leave(slot)
    assert served.engine.compilations_after_warm_up == 0


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
        assert served.engine.score_prompt(prompt, name) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_that_is_not_loaded_is_refused_by_the_engine(served: Served) -> None:
    with pytest.raises(
        ValueError, match=r"no adapter is called 'other'\. Loaded: attention, everything, patterns"
    ):
        served.engine.prefill(0, [1, 2], PLAIN, adapter="other")


def test_without_adapters_the_programs_take_what_they_took_and_the_model_has_no_hooks(tmp_path: Path) -> None:
    directory = save("llama", tmp_path)
    loaded = load_model(directory, load_config(directory), LENGTH, torch.float32)
    engine = place_on_device(loaded, batch_size=2)
    counts = {key.kind: len(engine.program(key).arguments) for key in engine.program_keys()}
    assert (counts["prefill"], counts["forward"]) == (4 + 2, 4 + 2)
    assert not any(module._forward_hooks for module in loaded.model.modules())
