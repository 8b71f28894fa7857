"""SmolLM2 answers what transformers' greedy search answers, while requests join and leave a batch of 4 at random."""

import random

import pytest
import torch
from transformers import PreTrainedModel

from engine.conftest import LoadedEngine
from support.checkpoints import follow, generate
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.runtime.mesh import compilations
from text_generation_server.text.tokenizer import ModelTokenizer

TEXT = (
    "Deep learning is part of a broader family of machine learning methods. Die Würde des Menschen ist unantastbar. "
    "In 1969, Apollo 11 landed on the Moon; 東京は日本の首都です。 for i in range(10): print(i ** 2) 🙂 "
)
LENGTHS = [1, 2, 3, 5, 8, 13, 17, 24, 31, 32, 33, 47, 63, 64, 65, 90, 127, 128, 129, 170, 210, 255, 280, 300]
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def prompts(warmed_up: LoadedEngine) -> list[str]:
    """Texts of exactly the wanted numbers of tokens, each starting somewhere else."""
    ids = warmed_up.tokenizer(TEXT * 12)["input_ids"]
    made = []
    for index, length in enumerate(LENGTHS):
        # A cut may fall inside a character: then start elsewhere.
        for start in range(index * 3, len(ids)):
            text = warmed_up.tokenizer.decode(ids[start : start + length])
            if len(warmed_up.tokenizer(text)["input_ids"]) == length:
                made.append(text)
                break
    assert len(made) == len(LENGTHS)
    return made


def test_24_prompts_are_answered_token_for_token_as_by_transformers(
    loaded: LoadedEngine, reference: PreTrainedModel, prompts: list[str]
) -> None:
    generator = Generator(
        loaded.engine, ModelTokenizer.from_transformers(loaded.tokenizer), loaded.eos_token_ids
    )
    compiled = compilations()
    chance = random.Random(4)
    waiting = [
        GenerationRequest(id=index, prompt=prompt, max_new_tokens=NEW_TOKENS, ignore_eos_token=True)
        for index, prompt in enumerate(prompts)
    ]
    chance.shuffle(waiting)
    tokens: dict[int, list[int]] = {request.id: [] for request in waiting}
    logprobs: dict[int, list[float]] = {request.id: [] for request in waiting}
    running: int | None = None
    batch_id = 0
    unfinished = 0

    while waiting or running is not None:
        outcomes = []
        if waiting and unfinished < 4 and (running is None or chance.random() < 0.3):
            joining = [waiting.pop() for _ in range(min(len(waiting), chance.randint(1, 4 - unfinished)))]
            outcomes.append(generator.prefill(batch_id, joining))
            unfinished += len(joining)
            batches = [batch_id] if running is None else [running, batch_id]
            batch_id += 1
        else:
            assert running is not None
            batches = [running]
        outcomes.append(generator.decode(batches))
        running = outcomes[-1].batch.id if outcomes[-1].batch else None
        for outcome in outcomes:
            for generation in outcome.generations:
                tokens[generation.request_id] += [token.id for token in generation.tokens]
                logprobs[generation.request_id] += [token.logprob for token in generation.tokens]
                unfinished -= generation.finished is not None

    for index, prompt in enumerate(prompts):
        assert len(tokens[index]) == NEW_TOKENS
        ids = loaded.tokenizer(prompt)["input_ids"]
        # `generate` itself for some, the same by a single forward for all.
        answer = (
            generate(reference, ids, NEW_TOKENS) if index % 6 == 0 else follow(reference, ids, tokens[index])
        )
        assert tokens[index] == answer.tokens, prompt
        torch.testing.assert_close(logprobs[index], answer.logprobs, rtol=1e-3, atol=1e-3)
    assert compilations() == compiled
