"""The half precisions run through all programs, and stay near float32."""

import math
from pathlib import Path

import pytest
import torch

from engine.checkpoints import save
from engine.driver import Driver
from text_generation_server.model.checkpoint import load_config, load_model
from text_generation_server.model.load import place_on_device
from text_generation_server.sampling.parameters import SamplingParameters

PROMPT = [9, 30, 77, 4, 120]
WARM = SamplingParameters(temperature=0.7, top_p=0.9, seed=1)


def first_logprob(directory: Path, dtype: torch.dtype) -> float:
    driver = Driver(place_on_device(load_model(directory, load_config(directory), 48, dtype), batch_size=2))
    run = driver.join(1, PROMPT)
    driver.join(0, PROMPT, WARM)
    driver.step(2)
    assert len(run.tokens) == 3
    assert all(math.isfinite(logprob) for logprob in run.logprobs)
    return run.logprobs[0]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_serves_greedy_and_sampled_requests(
    model_type: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    # Weights as small as real ones: random large ones would make rounding errors grow from layer to layer.
    directory = save(model_type, tmp_path, initializer_range=0.05)
    exact = first_logprob(directory, torch.float32)
    assert first_logprob(directory, dtype) == pytest.approx(exact, abs=0.1)
