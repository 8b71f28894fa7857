"""Each architecture that is claimed generates, token for token, what transformers generates."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from support import engines
from support.checkpoints import (
    MULTIMODAL,
    RECIPES,
    Expected,
    generate,
    other_head,
    save,
    save_multimodal,
    type_of,
)
from support.driver import Driver, Run, score
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.model.architectures import SUPPORTED_MODEL_TYPES

LENGTH = 96


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """So small a model takes transformers longer on several threads, which wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("recipe", "layout"),
    [
        *((recipe, CacheLayout.HEADS) for recipe in RECIPES),
        # As on a TPU: key heads that are shared, that are not, bounded scores, windows, sinks, biases, and old code.
        *(
            (recipe, CacheLayout.LANES)
            for recipe in (
                "bloom",
                "gemma2",
                "gpt2",
                "gptj",
                "gpt_oss",
                "granite_swa",
                "llama4_text",
                "qwen2",
            )
        ),
    ],
)
def test_an_architecture_generates_what_transformers_generates(
    recipe: str, layout: CacheLayout, tmp_path: Path
) -> None:
    directory = save(recipe, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert_generates(directory, reference, layout)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_architecture_scores_prompts_as_transformers_does_with_the_other_kind_of_head_and_layout(
    recipe: str, tmp_path: Path
) -> None:
    """A head of its own where the checkpoint above shares the embeddings, and the reverse; the cache of a TPU."""
    directory = save(recipe, tmp_path, **other_head(recipe))
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    options = {"batch_size": 2, "max_length": LENGTH, "prefill_chunk": 32, "scores_prompts": True}
    engine = engines.loader(directory, layout=CacheLayout.LANES, skip_warmup=True, **options).load()
    prompt = random.Random(1).choices(range(3, 160), k=50)
    assert score(engine, 1, prompt) == pytest.approx(prompt_logprobs(reference, prompt), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_the_text_part_of_a_multimodal_checkpoint_generates_what_transformers_generates(
    model_type: str, tmp_path: Path
) -> None:
    directory = save_multimodal(model_type, tmp_path)
    reference = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    assert_generates(directory, reference, CacheLayout.HEADS)


def assert_generates(directory: Path, reference: Any, layout: CacheLayout) -> None:
    """An engine answers prompts of several lengths, which join and leave, as transformers does."""
    chance = random.Random(0)
    prompts = [[chance.randrange(3, 160) for _ in range(length)] for length in (1, 5, 23, 50)]
    # 50 + 40 tokens: far beyond a sliding window of 16, and more than the ring that such layers keep.
    expected = [generate(reference, prompt, 40) for prompt in prompts]

    # Only the programs that these requests need are made.
    engine = engines.loader(
        directory,
        batch_size=2,
        max_length=LENGTH,
        layout=layout,
        prefill_chunk=32,
        scores_prompts=True,
        skip_warmup=True,
    ).load()
    # A TPU's layout goes without the logprobs of prompts, so that the programs of such prompts run too.
    scored = layout is CacheLayout.HEADS
    driver = Driver(engine)
    first = driver.join(0, prompts[0], scored=scored)
    driver.step(7)
    second = driver.join(1, prompts[1], scored=scored)
    driver.step(33)
    driver.leave(0)
    third = driver.join(0, prompts[2], scored=scored)
    driver.step(7)
    driver.leave(1)
    fourth = driver.join(1, prompts[3], scored=scored)
    driver.step(40)

    for run, prompt, answer in zip((first, second, third, fourth), prompts, expected, strict=True):
        assert_same(run, answer)
        if scored:
            logprobs = prompt_logprobs(reference, prompt)
            assert run.prompt_logprobs == pytest.approx(logprobs, rel=1e-3, abs=1e-3)


def assert_same(run: Run, expected: Expected) -> None:
    assert run.tokens[:40] == expected.tokens
    torch.testing.assert_close(run.logprobs[:40], expected.logprobs, rtol=1e-3, atol=1e-3)


def prompt_logprobs(model: Any, ids: list[int]) -> list[float]:
    """What transformers thinks of each token of a prompt but the first."""
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
    return [float(scores[place, token]) for place, token in enumerate(ids[1:])]


def test_every_architecture_that_is_claimed_has_a_checkpoint_here() -> None:
    assert {type_of(recipe) for recipe in RECIPES} | set(MULTIMODAL) == set(SUPPORTED_MODEL_TYPES)
