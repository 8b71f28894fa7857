"""Several tokens a step on a tiny model: whatever the drafts, and however many steps the device takes without the host,
each request gets the tokens that it gets one by one."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from batching.test_steps_ahead import FixedTimes
from support import engines
from support.checkpoints import behind_the_best, save
from support.driver import prefill, step
from support.lora_adapters import save_adapter
from support.rooms import answers as answers_together
from text_generation_server.batching.drafts import Drafts
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.requests import Generation, GenerationRequest
from text_generation_server.batching.speculation import Speculation
from text_generation_server.batching.step_times import StepTimes
from text_generation_server.batching.steps_ahead import StepsAhead
from text_generation_server.engine.contract import ChosenToken
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

from . import test_every_feature_at_random as every_feature

REQUESTS = {1: 60, 4: 20}
"""By the number of chips. Four of them do not divide the two key heads of the model: so they share the slots."""


class PlainGenerator(Generator):
    """Never drafts anything, and has the device wait for the host."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._speculation = Speculation(0, self._info.max_length, StepTimes())
        self._steps_ahead = StepsAhead(0, StepTimes())


class LoopingGenerator(PlainGenerator):
    """Leaves the host out whenever it may."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._steps_ahead = StepsAhead(self._info.steps, FixedTimes())
        GENERATORS.append(self)


class DraftingGenerator(PlainGenerator):
    """Verifies whatever is drafted."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._speculation = FreeSpeculation(self._info.drafts, self._info.max_length, StepTimes())


class FreeSpeculation(Speculation):
    """A verification costs nothing."""

    price = 0.0


GENERATORS: list[LoopingGenerator] = []


class Oracle(Drafts):
    """Knows the answer, and tells some of it, not always rightly: any number of drafts is accepted and refused."""

    def __init__(self, answer: list[Generation], chance: random.Random) -> None:
        super().__init__([0])
        self._answer = [token.id for generation in answer for token in generation.tokens]
        self._chance = chance
        self._place = 0

    def add(self, token_id: int) -> None:
        self._place += 1

    def propose(self, count: int) -> list[int]:
        known = self._answer[self._place :][: self._chance.randint(0, count)]
        return [(token + 1) % 100 if self._chance.random() < 0.15 else token for token in known]


def answer_without(engine: StaticBatchEngine, request: GenerationRequest) -> list[Generation]:
    generator = PlainGenerator(
        engine, ModelTokenizer.from_transformers(every_feature.TOKENIZER), every_feature.EOS
    )
    outcome = generator.prefill(0, [request])
    answer = list(outcome.generations)
    while outcome.batch is not None:
        outcome = generator.decode([0])
        answer += outcome.generations
    return answer


@pytest.fixture(scope="module", params=REQUESTS, ids=lambda chips: f"{chips}-chips")
def chips(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, chips: int) -> Sequence[StaticBatchEngine]:
    """Two engines of the same model and programs."""
    directory = tmp_path_factory.mktemp("drafts")
    checkpoint = save("llama", directory / "model", vocab_size=len(every_feature.TOKENIZER))
    adapters = [
        (name, save_adapter(checkpoint, directory / name, seed, r=3, target_modules="all-linear"))
        for seed, name in enumerate(("one", "two"))
    ]
    return [
        engines.engine(
            checkpoint,
            batch_size=4,
            max_length=every_feature.MAX_LENGTH,
            scores_prompts=True,
            adapters=adapters,
            chips=chips,
            prefill_chunk=32,
            speculate=3,
            steps=8,
        )
        for _ in range(2)
    ]


def test_answers_are_the_same_with_and_without_drafts(
    pair: Sequence[StaticBatchEngine], chips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    speculative, plain = pair
    chance, answers = random.Random(6), dict[int, list[Generation]]()
    generators = []

    class OracularGenerator(DraftingGenerator):
        def _new_state(self, request: GenerationRequest) -> RequestState:
            state = super()._new_state(request)
            answers[request.id] = answer_without(plain, request)
            state._drafts = Oracle(answers[request.id], chance)
            generators.append(self)
            return state

    monkeypatch.setattr(every_feature, "Generator", OracularGenerator)
    compiled = compilations()
    clients = every_feature.serve_at_random(speculative, random.Random(21), REQUESTS[chips])
    check_answers(clients, lambda request: answers[request.id])
    counted = generators[0].speculation
    assert counted.drafted > REQUESTS[chips]
    assert 0.4 * counted.drafted < counted.accepted < 0.95 * counted.drafted
    assert compilations() == compiled


def test_answers_are_the_same_when_the_device_takes_several_steps_without_the_host(
    pair: Sequence[StaticBatchEngine], chips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looping, plain = pair
    anything = every_feature.random_request

    def mostly_simple(chance: random.Random, request_id: int) -> GenerationRequest:
        """One grammar, and one request for alternatives, keeps all others from it."""
        request = anything(chance, request_id)
        if chance.random() < 0.05:
            return request
        sampling = replace(request.sampling, typical_p=1.0, watermark=False)
        return replace(request, grammar=None, top_n_tokens=0, sampling=sampling)

    monkeypatch.setattr(every_feature, "random_request", mostly_simple)
    monkeypatch.setattr(every_feature, "Generator", LoopingGenerator)
    compiled = compilations()
    clients = every_feature.serve_at_random(looping, random.Random(23), REQUESTS[chips])
    check_answers(clients, lambda request: answer_without(plain, request))
    assert GENERATORS[-1].steps_ahead.taken > REQUESTS[chips] // 4
    assert compilations() == compiled


def check_answers(
    clients: Sequence[every_feature.Client], expected: Callable[[GenerationRequest], list[Generation]]
) -> None:
    """Those who stayed got what is expected, and a proper end."""
    for client in clients:
        if not client.cancelled and not client.expected_failure:
            assert client.failure is None, client.request
            every_feature.compare(client.answer, expected(client.request))
            every_feature.check_end(client)


SAMPLINGS = st.sampled_from(
    [
        SamplingParameters(),
        SamplingParameters(do_sample=True, seed=1),
        SamplingParameters(temperature=0.7, top_k=9, seed=2**60),
        SamplingParameters(top_p=0.8, repetition_penalty=1.3, seed=3),
        SamplingParameters(frequency_penalty=1.5),
    ]
)


@st.composite
def requests_that_meet(draw: st.DrawFn) -> list[GenerationRequest]:
    """As many as there are slots at most; texts that repeat themselves have drafts."""
    return [
        GenerationRequest(
            id=request_id,
            prompt=draw(st.text("ab ", min_size=1, max_size=30)),
            max_new_tokens=draw(st.integers(1, 40)),
            sampling=draw(SAMPLINGS),
            stop_sequences=draw(st.sampled_from([(), (), ("a",), ("e", "th")])),
            ignore_eos_token=draw(st.booleans()),
            adapter_id=draw(st.sampled_from([None, "one"])),
        )
        for request_id in range(draw(st.integers(1, 4)))
    ]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(requests=requests_that_meet())
def test_whatever_is_asked_for_several_tokens_a_step_are_those_of_single_steps(
    pair: Sequence[StaticBatchEngine], requests: list[GenerationRequest]
) -> None:
    fast, plain = pair
    expected = answered(PlainGenerator, plain, requests)
    for kind in (DraftingGenerator, LoopingGenerator):
        given_answers = answered(kind, fast, requests)
        for request in requests:
            every_feature.compare(given_answers[request.id], expected[request.id])


def test_in_bfloat16_pieces_and_drafts_change_a_token_only_where_two_lie_within_rounding(
    tmp_path: Path,
) -> None:
    directory = save("llama", tmp_path, vocab_size=len(every_feature.TOKENIZER), initializer_range=0.05)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    options = {"batch_size": 2, "max_length": 128, "dtype": "bfloat16", "skip_warmup": True}
    engine = engines.loader(directory, prefill_chunk=32, speculate=4, **options).load()
    tokenizer = ModelTokenizer.from_transformers(every_feature.TOKENIZER)
    requests = [
        GenerationRequest(id=0, prompt="abcabcab " * 5, max_new_tokens=60, ignore_eos_token=True),
        GenerationRequest(id=1, prompt="abcabcab " * 6, max_new_tokens=60, ignore_eos_token=True),
    ]
    generator = DraftingGenerator(engine, tokenizer, every_feature.EOS)
    given_answers = answers_together(generator, requests)
    assert generator.speculation.accepted > 10
    for request in requests:
        prompt = tokenizer.encode(request.prompt, add_special_tokens=True)
        chosen = [token.id for generation in given_answers[request.id] for token in generation.tokens]
        assert len(chosen) == 60
        assert max(behind_the_best(reference, prompt, chosen)) < 0.1


def answered(
    kind: type[Generator], engine: StaticBatchEngine, requests: list[GenerationRequest]
) -> dict[int, list[Generation]]:
    tokenizer = ModelTokenizer.from_transformers(every_feature.TOKENIZER)
    return answers_together(kind(engine, tokenizer, every_feature.EOS), requests)


@pytest.mark.parametrize(
    ("model_type", "layout"), [("mistral", CacheLayout.HEADS), ("gemma2", CacheLayout.LANES)]
)
def test_drafts_that_are_refused_leave_nothing_behind_in_a_ring(
    model_type: str, layout: CacheLayout, tmp_path: Path
) -> None:
    directory = save(model_type, tmp_path, max_position_embeddings=256)
    options = {"batch_size": 2, "max_length": 256, "prefill_chunk": 32, "layout": layout, "skip_warmup": True}
    engine = engines.loader(directory, speculate=8, **options).load()
    assert engine.info.ring is not None
    assert engine.info.ring.size < 200, "the test needs a ring that is written several times over"
    chance = random.Random(2)
    prompt = chance.choices(range(3, 100), k=30)
    prefill(engine, 0, prompt)
    expected = [step(engine)[0][0] for _ in range(225)]
    engine.release(0)
    prefill(engine, 1, prompt)
    tokens: list[ChosenToken] = []
    while len(tokens) < len(expected):
        drafts = [token.token_id for token in expected[len(tokens) :][: chance.randint(0, 8)]]
        drafts = [(token + 1) % 100 if chance.random() < 0.2 else token for token in drafts]
        tokens += engine.verify({1: drafts}).read()[1]
    assert [token.token_id for token in tokens][:225] == [token.token_id for token in expected]
    logprobs = [token.logprob for token in tokens][:225]
    assert logprobs == pytest.approx([token.logprob for token in expected], abs=1e-4)
