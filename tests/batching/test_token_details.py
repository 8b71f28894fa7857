"""Alternatives to each token, and the logprobs of the prompt, for requests that ask for them."""

import math
from typing import Any

import pytest

from support import small_tokenizers
from support.rooms import request
from text_generation_server.batching.generator import Generator
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.text.tokenizer import ModelTokenizer


@pytest.fixture
def tokenizer() -> Any:
    return small_tokenizers.byte_level()


@pytest.fixture
def engine(tokenizer: Any) -> FakeEngine:
    return FakeEngine(vocab_size=len(tokenizer), batch_size=2, scores_prompts=True)


@pytest.fixture
def generator(engine: FakeEngine, tokenizer: Any) -> Generator:
    return Generator(engine, ModelTokenizer.from_transformers(tokenizer), frozenset())


def test_each_token_comes_with_the_best_tokens_and_those_that_tie_with_the_last(
    generator: Generator, tokenizer: Any
) -> None:
    first = generator.prefill(0, [request(0, "the", max_new_tokens=3, top_n_tokens=3)])
    second = generator.decode([0])
    for outcome in (first, second):
        (generation,) = outcome.generations
        (best,) = generation.top_tokens
        # The fake engine's third and fourth tokens tie.
        assert len(best) == 4
        assert (best[0].id, best[0].logprob) == (generation.tokens[0].id, generation.tokens[0].logprob)
        assert best[2].logprob == best[3].logprob
        assert [token.text for token in best] == [tokenizer.decode([token.id]) for token in best]


def test_a_request_that_asks_for_none_gets_none_beside_one_that_does(generator: Generator) -> None:
    requests = [request(0, "the", max_new_tokens=3, top_n_tokens=1), request(1, "the", max_new_tokens=3)]
    for outcome in (generator.prefill(0, requests), generator.decode([0])):
        asked, silent = outcome.generations
        assert [len(best) for best in asked.top_tokens] == [1]
        assert silent.top_tokens == ()


def test_the_ranking_stops_when_nobody_asks_any_more(generator: Generator, engine: FakeEngine) -> None:
    generator.prefill(0, [request(0, "the", max_new_tokens=1, top_n_tokens=2)])
    outcome = generator.prefill(1, [request(1, "the", max_new_tokens=2)])
    assert outcome.generations[0].top_tokens == ()
    assert [call.ranked for call in engine.fills] == [True, False]


def test_more_alternatives_than_an_engine_ranks_are_refused(generator: Generator) -> None:
    outcome = generator.prefill(0, [request(0, "the", top_n_tokens=21)])
    assert outcome.failures == {0: "`top_n_tokens` must be 0 (off) to 20. Given: 21"}


def test_the_prompts_logprobs_come_with_the_first_token_only(
    generator: Generator, engine: FakeEngine, tokenizer: Any
) -> None:
    first = generator.prefill(0, [request(0, "the fox jumps", max_new_tokens=3, prompt_logprobs=True)])
    prompt = first.generations[0].prompt
    assert prompt is not None
    assert prompt.token_ids == tokenizer("the fox jumps")["input_ids"]
    assert math.isnan(prompt.logprobs[0])
    assert prompt.logprobs[1:] == [engine.logprob_of(token_id) for token_id in prompt.token_ids[1:]]
    assert prompt.texts == [tokenizer.decode([token_id]) for token_id in prompt.token_ids]
    assert generator.decode([0]).generations[0].prompt is None


def test_a_request_that_waited_gets_its_prompts_logprobs_with_its_first_token(generator: Generator) -> None:
    requests = [request(i, "the fox", max_new_tokens=2, prompt_logprobs=True) for i in range(3)]
    outcomes = [generator.prefill(0, requests)]
    while outcomes[-1].batch:
        outcomes.append(generator.decode([0]))
    with_prompt = [each.request_id for outcome in outcomes for each in outcome.generations if each.prompt]
    assert sorted(with_prompt) == [0, 1, 2]
