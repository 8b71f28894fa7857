"""`tpu-tgi` with the real shard and a tiny random model: what only a model can show."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.checkpoints import save
from front.launched import Launched, launched
from front.running_front import wait_until
from support import small_tokenizers

READY_SECONDS = 240.0
"""For compiling on a machine that is busy otherwise."""

DRAWN = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 12, "details": True}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    directory = tmp_path_factory.mktemp("service")
    tokenizer = small_tokenizers.byte_level()
    checkpoint = save("llama", directory / "model", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(checkpoint)
    programs = directory / "programs"
    programs.mkdir()
    server = programs / "text-generation-server"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} -m text_generation_server.cli "$@"\n')
    server.chmod(0o755)
    environment = {
        "PATH": str(programs),
        "PJRT_DEVICE": "CPU",
        "HF_BATCH_SIZE": "4",
        "HF_SEQUENCE_LENGTH": "64",
    }
    with launched(directory, str(checkpoint), environment=environment) as running:
        wait_until(lambda: "Ready: " in running.output or running.process.poll() is not None, READY_SECONDS)
        assert running.process.poll() is None, running.output
        yield running


def generate(service: Launched, **parameters: Any) -> dict[str, Any]:
    body = {"inputs": "The quick", "parameters": parameters}
    answer: dict[str, Any] = (
        httpx.post(f"{service.url}/generate", json=body, timeout=60).raise_for_status().json()
    )
    return answer


def mean_logprob(sequence: dict[str, Any]) -> float:
    logprobs: list[float] = [token["logprob"] for token in sequence["tokens"]]
    assert all(math.isfinite(logprob) and logprob < 0 for logprob in logprobs)
    return sum(logprobs) / len(logprobs)


def test_the_best_of_several_independent_draws_is_returned(service: Launched) -> None:
    for _ in range(3):
        answer = generate(service, **DRAWN, best_of=2)
        best = answer["details"]
        others = best["best_of_sequences"]
        assert answer["generated_text"] != others[0]["generated_text"]
        assert mean_logprob(best) > mean_logprob(others[0])


def test_each_draw_is_what_its_seed_gives_alone(service: Launched) -> None:
    answer = generate(service, **DRAWN, best_of=2)
    sequences = [answer["details"], *answer["details"]["best_of_sequences"]]
    assert len({sequence["seed"] for sequence in sequences}) == 2
    for sequence in sequences:
        alone = generate(service, **DRAWN, seed=sequence["seed"])["details"]
        assert [token["id"] for token in alone["tokens"]] == [token["id"] for token in sequence["tokens"]]
        assert mean_logprob(alone) == pytest.approx(mean_logprob(sequence), abs=1e-4)


def test_a_seed_comes_back_and_a_greedy_answer_has_none(service: Launched) -> None:
    for seed in (0, 7, 2**64 - 1):
        assert generate(service, **DRAWN, seed=seed)["details"]["seed"] == seed
    assert generate(service, max_new_tokens=3, details=True)["details"]["seed"] is None
