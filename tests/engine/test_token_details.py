"""Alternatives, prompt logprobs and watermarks of a real model, compared with transformers and a detector."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.conftest import LoadedEngine
from support import engines
from support.checkpoints import save
from support.driver import Driver, prefill, score, step
from text_generation_server.engine.contract import MAX_RANKED
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.sampling.parameters import SamplingParameters, WatermarkStrength
from text_generation_server.sampling.watermark import green

PROMPT = [9, 30, 77, 4, 120, 8, 8, 31]
PLAIN = SamplingParameters()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[StaticBatchEngine, Any]:
    directory: Path = save("llama", tmp_path_factory.mktemp("llama"))
    engine = engines.engine(directory, batch_size=2, max_length=48, scores_prompts=True)
    return engine, AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def logprobs_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    return scores


def test_prompt_logprobs_equal_those_of_transformers(tiny: tuple[StaticBatchEngine, Any]) -> None:
    engine, model = tiny
    expected = [float(row[token]) for row, token in zip(logprobs_of(model, PROMPT), PROMPT[1:], strict=False)]
    assert score(engine, 0, PROMPT) == pytest.approx(expected, abs=1e-4)
    assert score(engine, 0, [5]) == []
    assert engine.statistics().compilations_after_warm_up == 0


def test_ranked_tokens_equal_those_of_transformers_for_the_first_token_and_the_next(
    tiny: tuple[StaticBatchEngine, Any],
) -> None:
    engine, model = tiny
    prefill(engine, 0, [7, 8, 9])
    prefill(engine, 1, PROMPT, ranked=True)
    steps = [step(engine), step(engine)]
    assert all(chosen[0][0].ranked is None for chosen in steps)
    first, second = (chosen[1][0] for chosen in steps)
    for slot in (0, 1):
        engine.release(slot)
    assert first.ranked is not None
    assert second.ranked is not None
    ids = [*PROMPT, first.token_id]
    for ranked, row in ((first.ranked, -2), (second.ranked, -1)):
        expected = logprobs_of(model, ids)[row].topk(MAX_RANKED)
        assert ranked.token_ids == expected.indices.tolist()
        assert ranked.logprobs == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert engine.statistics().compilations_after_warm_up == 0


def test_ranked_tokens_leave_out_what_top_k_filtered(tiny: tuple[StaticBatchEngine, Any]) -> None:
    engine, _ = tiny
    prefill(engine, 0, PROMPT, SamplingParameters(top_k=3, seed=1), ranked=True)
    (first,) = step(engine)[0]
    engine.release(0)
    assert first.ranked is not None
    assert len(first.ranked.token_ids) == 3
    assert sum(math.exp(logprob) for logprob in first.ranked.logprobs) == pytest.approx(1.0, abs=1e-5)
    assert first.logprob in first.ranked.logprobs


def z_score(ids: list[int], vocab_size: int, gamma: float) -> float:
    """The detector of Kirchenbauer et al.: how far the count of green tokens is above chance."""
    pairs = list(pairwise(ids))
    hits = sum(
        bool(green(torch.tensor([[before]], dtype=torch.int32), vocab_size, gamma)[0, token])
        for before, token in pairs
    )
    return (hits - gamma * len(pairs)) / math.sqrt(len(pairs) * gamma * (1 - gamma))


def test_a_detector_finds_the_watermark_and_finds_none_without(loaded: LoadedEngine) -> None:
    driver = Driver(loaded.engine)
    prompt = loaded.tokenizer("My opinion on the weather in the mountains is")["input_ids"]
    marked = driver.join(0, prompt, SamplingParameters(do_sample=True, seed=1, watermark=True))
    plain = driver.join(1, prompt, SamplingParameters(do_sample=True, seed=1))
    driver.step(100)
    vocab_size, gamma = loaded.engine.info.vocab_size, WatermarkStrength().gamma
    assert z_score([prompt[-1], *marked.tokens], vocab_size, gamma) > 4
    assert abs(z_score([prompt[-1], *plain.tokens], vocab_size, gamma)) < 3
