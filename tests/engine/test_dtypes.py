"""The half precisions run through all programs, and stay near float32."""

import math
from pathlib import Path

import pytest

from support import engines
from support.checkpoints import save
from support.driver import Driver
from text_generation_server.sampling.parameters import SamplingParameters

PROMPT = [9, 30, 77, 4, 120]
WARM = SamplingParameters(temperature=0.7, top_p=0.9, seed=1)


def first_logprob(directory: Path, dtype: str) -> float:
    driver = Driver(
        engines.loader(directory, batch_size=2, max_length=48, dtype=dtype, skip_warmup=True).load()
    )
    run = driver.join(1, PROMPT)
    driver.join(0, PROMPT, WARM)
    driver.step(3)
    assert len(run.tokens) == 3
    assert all(math.isfinite(logprob) for logprob in run.logprobs)
    return run.logprobs[0]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_serves_greedy_and_sampled_requests(
    model_type: str, dtype: str, tmp_path: Path
) -> None:
    # Weights as small as real ones: random large ones would make rounding errors grow from layer to layer.
    directory = save(model_type, tmp_path, initializer_range=0.05)
    exact = first_logprob(directory, "float32")
    assert first_logprob(directory, dtype) == pytest.approx(exact, abs=0.1)
