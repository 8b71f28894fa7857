"""Each architecture that is claimed generates, token for token, what transformers generates."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import RECIPES, Expected, generate, save
from support.driver import Driver, Run
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.model.architectures import SUPPORTED_MODEL_TYPES

LENGTH = 96


@pytest.mark.parametrize(
    ("model_type", "layout"),
    [
        *((model_type, CacheLayout.HEADS) for model_type in SUPPORTED_MODEL_TYPES),
        # As on a TPU: key heads that are shared, that are not, bounded scores, and a window.
        *((model_type, CacheLayout.LANES) for model_type in ("llama", "gpt2", "gemma2", "qwen2")),
    ],
)
def test_an_architecture_generates_what_transformers_generates(
    model_type: str, layout: CacheLayout, tmp_path: Path
) -> None:
    directory = save(model_type, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    chance = random.Random(model_type)
    prompts = [[chance.randrange(3, 160) for _ in range(length)] for length in (1, 5, 23, 40)]
    # 40 + 40 tokens: far beyond a sliding window of 16.
    expected = [generate(reference, prompt, 40) for prompt in prompts]

    # Only the programs that these requests need are made.
    engine = engines.loader(
        directory, batch_size=2, max_length=LENGTH, layout=layout, skip_warmup=True
    ).load()
    driver = Driver(engine)
    first = driver.join(0, prompts[0])
    driver.step(7)
    second = driver.join(1, prompts[1])
    driver.step(32)
    driver.leave(0)
    third = driver.join(0, prompts[2])
    driver.step(7)
    driver.leave(1)
    fourth = driver.join(1, prompts[3])
    driver.step(39)

    for run, answer in zip((first, second, third, fourth), expected, strict=True):
        assert_same(run, answer)


def assert_same(run: Run, expected: Expected) -> None:
    assert run.tokens[:40] == expected.tokens
    torch.testing.assert_close(run.logprobs[:40], expected.logprobs, rtol=1e-3, atol=1e-3)


def test_every_architecture_that_is_claimed_has_a_checkpoint_here() -> None:
    assert set(RECIPES) == set(SUPPORTED_MODEL_TYPES)
