"""The half precisions run through all programs, and stay near float32."""

import math
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import save
from support.driver import Driver, score
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


BFLOAT16 = (
    *(
        "apertus",
        "bloom",
        "cohere2",
        "falcon alibi",
        "glm4",
        "gpt_neo",
        "gpt_oss",
        "gptj",
        "llama4_text",
        "mpt",
    ),
    *("nemotron", "phimoe", "qwen3_moe", "smollm3", "stablelm", "xglm"),
)
"""One of each kind of positions, norms, attention of its own, and experts."""


@pytest.mark.parametrize("recipe", BFLOAT16)
def test_in_bfloat16_a_prompt_has_almost_the_logprobs_of_transformers_in_float32(
    recipe: str, tmp_path: Path
) -> None:
    directory = save(recipe, tmp_path, initializer_range=0.05)
    prompt = random.Random(2).choices(range(3, 160), k=30)
    options = {"batch_size": 2, "max_length": 48, "scores_prompts": True, "skip_warmup": True}
    engine = engines.loader(directory, dtype="bfloat16", **options).load()
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        scores = torch.log_softmax(reference(torch.tensor([prompt])).logits[0], dim=-1)
    expected = [float(scores[place, token]) for place, token in enumerate(prompt[1:])]
    assert score(engine, 0, prompt) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_serves_greedy_and_sampled_requests(
    model_type: str, dtype: str, tmp_path: Path
) -> None:
    # Weights as small as real ones: random large ones would make rounding errors grow from layer to layer.
    directory = save(model_type, tmp_path, initializer_range=0.05)
    exact = first_logprob(directory, "float32")
    assert first_logprob(directory, dtype) == pytest.approx(exact, abs=0.1)
