"""Requests with a grammar on the real engine, beside requests without one."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from engine.conftest import LoadedEngine
from grammar.schemas import ARRAYS, COMBINED, FUNCTIONS, NUMBERS, SCALARS, Schema
from support.driver import prefill
from support.rooms import answers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import FinishReason, GenerationRequest
from text_generation_server.engine.contract import AllowedTokens, ChosenToken
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.vocabulary import pack
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

PHONE = Grammar(GrammarKind.REGEX, r"[0-9]{3}-[0-9]{4}")
VERDICT = Grammar(GrammarKind.REGEX, r"(yes|no), because [a-z ]{10,30}\.")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SHORT = [FUNCTIONS[0], PERSON, SCALARS[7], SCALARS[11], NUMBERS[2], ARRAYS[6], COMBINED[5]]
"""Schemas whose outputs are short, whatever the model would like to say."""

SAMPLED = SamplingParameters(temperature=0.9, top_k=50, top_p=0.9, repetition_penalty=1.1, seed=3)
ALLOWED = [5, 33, 1000]


def json_schema(schema: Schema) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


REQUESTS: list[dict[str, Any]] = [
    {"prompt": "My number is", "grammar": PHONE, "sampling": SAMPLED},
    {"prompt": "The capital of France is"},
    {"prompt": "Is water wet?", "grammar": VERDICT},
    {"prompt": "Describe a person as JSON:", "grammar": json_schema(PERSON), "sampling": SAMPLED},
    {"prompt": "Once upon a time", "sampling": SAMPLED},
    {"prompt": "def fibonacci(n):", "grammar": json_schema(PERSON)},
]


@pytest.fixture
def generator(loaded: LoadedEngine) -> Generator:
    return Generator(loaded.engine, ModelTokenizer.from_transformers(loaded.tokenizer), loaded.eos_token_ids)


@pytest.fixture(autouse=True)
def nothing_is_compiled(loaded: LoadedEngine) -> Iterator[None]:
    """Holds for every test here. The counter is the process's, and other tests load engines too: so the difference."""
    before = compilations()
    yield
    assert compilations() == before


def requests() -> list[GenerationRequest]:
    return [GenerationRequest(id=i, max_new_tokens=60, **fields) for i, fields in enumerate(REQUESTS)]


def test_rows_with_and_without_a_grammar_get_the_tokens_that_they_get_alone(generator: Generator) -> None:
    alone = {request.id: answers(generator, [request])[request.id] for request in requests()}
    for order in (requests(), requests()[::-1]):
        together = answers(generator, order)
        for request in order:
            expected = [(t.id, t.logprob) for g in alone[request.id] for t in g.tokens]
            ids = [token_id for token_id, _ in expected]
            assert [t.id for g in together[request.id] for t in g.tokens] == ids, REQUESTS[request.id]
            assert [t.logprob for g in together[request.id] for t in g.tokens] == pytest.approx(
                [logprob for _, logprob in expected], abs=1e-4
            )


def test_an_expression_is_kept_to_and_the_model_ends_there(generator: Generator) -> None:
    given = answers(generator, requests())
    for request in requests():
        if request.grammar is not None and request.grammar.kind is GrammarKind.REGEX:
            last = given[request.id][-1].finished
            assert last is not None
            assert re.fullmatch(request.grammar.text, last.text)
            assert last.finish_reason is FinishReason.EOS_TOKEN


@pytest.mark.parametrize("sampling", [SamplingParameters(), SAMPLED], ids=["greedy", "sampled"])
def test_outputs_under_a_schema_validate(generator: Generator, sampling: SamplingParameters) -> None:
    asked = [
        GenerationRequest(
            id=i, prompt="JSON:", max_new_tokens=150, grammar=json_schema(schema), sampling=sampling
        )
        for i, schema in enumerate(SHORT)
    ]
    for request_id, generations in answers(generator, asked).items():
        last = generations[-1].finished
        assert last is not None
        assert last.finish_reason is FinishReason.EOS_TOKEN, (SHORT[request_id], last.text)
        Draft202012Validator(SHORT[request_id]).validate(json.loads(last.text))


def masks(loaded: LoadedEngine) -> AllowedTokens:
    info = loaded.engine.info
    return pack(ALLOWED, words(info.vocab_size))


def first_and_second(loaded: LoadedEngine, sampling: SamplingParameters) -> list[ChosenToken]:
    """The tokens of the first two steps, in which slot 2 alone is held to ALLOWED."""
    engine, mask = loaded.engine, masks(loaded)
    prefill(engine, 2, [5, 6, 7], sampling, ranked=True)
    everything = pack(range(engine.info.vocab_size), len(mask))
    rows = [everything] * engine.info.batch_size
    rows[2] = mask
    chosen = [engine.start_step().choose(np.stack(rows)).read()[2] for _ in range(2)]
    engine.release(2)
    return [*chosen[0], *chosen[1]]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 50])
def test_only_allowed_tokens_are_drawn_however_large_top_k_is(loaded: LoadedEngine, top_k: int) -> None:
    for seed in range(5):
        sampling = SamplingParameters(top_k=top_k, top_p=0.95, typical_p=0.95, seed=seed)
        for chosen in first_and_second(loaded, sampling):
            assert chosen.token_id in ALLOWED


@pytest.mark.parametrize(
    "sampling", [SamplingParameters(), SamplingParameters(top_k=50, seed=1)], ids=["greedy", "top_k"]
)
def test_only_allowed_tokens_are_alternatives(loaded: LoadedEngine, sampling: SamplingParameters) -> None:
    for chosen in first_and_second(loaded, sampling):
        assert chosen.ranked is not None
        assert sorted(chosen.ranked.token_ids) == ALLOWED
        assert sum(math.exp(logprob) for logprob in chosen.ranked.logprobs) == pytest.approx(1, abs=1e-5)
