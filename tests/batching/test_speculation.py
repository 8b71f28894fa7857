"""Speculation on an engine without a model: the same answers in fewer steps, and only while that pays."""

from collections.abc import Sequence
from typing import cast

import pytest

from support import small_tokenizers
from support.rooms import answers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.requests import Generation, GenerationRequest
from text_generation_server.batching.speculation import FIRST_PRICE, FORGET_AFTER, Speculation
from text_generation_server.batching.step_times import StepKind, StepTimes
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.text.tokenizer import ModelTokenizer

TOKENIZER = ModelTokenizer.from_transformers(small_tokenizers.byte_level())
EOS = small_tokenizers.byte_level().eos_token_id
PERIOD = 20


def reciting(history: Sequence[int]) -> int:
    """Says what it said PERIOD tokens ago."""
    return history[-PERIOD] if len(history) >= PERIOD else 40 + len(history) % 50


def never_again(history: Sequence[int]) -> int:
    return 130 + len(history) % 100


def request(request_id: int, **fields: object) -> GenerationRequest:
    given = {"prompt": "abcdefghijklmnopqrst", "max_new_tokens": 40, "ignore_eos_token": True, **fields}
    return GenerationRequest(id=request_id, **given)  # type: ignore[arg-type]


def generator(engine: FakeEngine) -> Generator:
    return Generator(engine, TOKENIZER, frozenset())


def ids(answer: list[Generation]) -> list[int]:
    return [token.id for generation in answer for token in generation.tokens]


class Copying:
    """Stands for a request whose drafts are always right."""

    def __init__(self, tokens: Sequence[int] = (1, 2, 3, 4)) -> None:
        self._tokens = list(tokens)

    def propose(self, most: int, max_length: int) -> list[int]:
        return self._tokens[:most]

    def expected(self, count: int) -> float:
        return float(count)


def fake(drafts: int, next_token: object = reciting, **fields: object) -> FakeEngine:
    return FakeEngine(next_token=next_token, drafts=drafts, **fields)  # type: ignore[arg-type]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification costs nothing, so that every draft is verified."""
    monkeypatch.setattr(Speculation, "price", 0.0)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    "fields",
    [{}, {"max_new_tokens": 7}, {"max_new_tokens": 1}, {"stop_sequences": ("fg",)}, {"top_n_tokens": 3}],
    ids=str,
)
def test_answers_are_the_same_with_fewer_steps(fields: dict[str, object]) -> None:
    plain, speculative = fake(0), fake(4)
    expected = answers(generator(plain), [request(0, **fields), request(1, prompt="xy")])
    given = answers(generator(speculative), [request(0, **fields), request(1, prompt="xy")])
    for request_id, answer in given.items():
        assert ids(answer) == ids(expected[request_id])
        assert answer[-1].finished == expected[request_id][-1].finished
        assert [best for each in answer for best in each.top_tokens] == [
            best for each in expected[request_id] for best in each.top_tokens
        ]
    assert plain.calls["verify"] == 0
    assert speculative.calls["verify"] + speculative.calls["decode"] < plain.calls["decode"]


@pytest.mark.usefixtures("free")
def test_a_slot_is_filled_to_its_last_token() -> None:
    engine = fake(4, max_length=64)
    answer = answers(generator(engine), [request(0, max_new_tokens=43)])[0]
    assert len(ids(answer)) == 43
    assert ids(answer) == ids(answers(generator(fake(0, max_length=64)), [request(0, max_new_tokens=43)])[0])
    assert engine.calls["verify"] > 5


@pytest.mark.usefixtures("free")
def test_a_verification_waits_for_the_last_token_and_nothing_follows_before_it_is_read() -> None:
    engine = fake(4)
    answers(generator(engine), [request(0)])
    places = [place for place, what in enumerate(engine.timeline) if what.startswith("verify")]
    assert places
    for place in places:
        name = engine.timeline[place]
        started = {what.split()[1] for what in engine.timeline[:place] if what.startswith("choose")}
        read = {
            what.split()[1]
            for what in engine.timeline[:place]
            if what.startswith("read") and "verify" not in what
        }
        assert started <= read
        assert engine.timeline[place + 1] == f"read {name}"


def test_a_text_that_does_not_repeat_is_served_by_plain_steps() -> None:
    engine = fake(4, never_again)
    answers(generator(engine), [request(0)])
    assert engine.calls["verify"] == 0


def test_without_drafts_in_the_engine_nothing_is_verified() -> None:
    engine = fake(0)
    served = generator(engine)
    answers(served, [request(0)])
    assert (engine.calls["verify"], served.speculation.drafted) == (0, 0)


@pytest.mark.usefixtures("free")
def test_what_is_drafted_and_accepted_is_counted() -> None:
    engine = fake(4)
    served = generator(engine)
    answers(served, [request(0)])
    assert served.speculation.drafted == sum(
        len(tokens) for each in engine.drafts for tokens in each.values()
    )
    assert 0 < served.speculation.accepted <= served.speculation.drafted


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    "pattern",
    ["[a-z]{30}", "(abcdefghi){1,9}z", "a(bcd|bce)*", "[a-z]{3}"],
    ids=["any", "end", "other", "short"],
)
def test_answers_with_grammars_are_the_same_with_fewer_steps(pattern: str) -> None:
    """The engine says what the grammar forbids too, and its drafts say so again."""
    grammar = Grammar(GrammarKind.REGEX, pattern)
    requests = [request(0, max_new_tokens=90), request(1, grammar=grammar, max_new_tokens=60)]
    plain, speculative = fake(0), fake(4)
    expected, given = (
        answers(Generator(engine, TOKENIZER, frozenset({EOS})), requests) for engine in (plain, speculative)
    )
    for request_id, answer in given.items():
        assert ids(answer) == ids(expected[request_id])
        assert answer[-1].finished == expected[request_id][-1].finished
    assert speculative.calls["masked verify"] > 0
    assert speculative.calls["verify"] + speculative.calls["decode"] < plain.calls["decode"]


def test_steps_with_masks_tell_what_a_plain_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speculation, "price", 9.0)
    engine = fake(4)
    served = Generator(engine, TOKENIZER, frozenset({EOS}))
    answers(served, [request(0, grammar=Grammar(GrammarKind.REGEX, "[a-z]{30}"))])
    assert engine.calls["masked decode"] >= 30
    assert served._times.of(StepKind.PLAIN) is not None


def test_drafts_are_verified_only_below_the_measured_price() -> None:
    times = StepTimes()
    decides = Speculation(4, 1000, times)
    assert decides.price == FIRST_PRICE
    for place in range(4):
        times.read(StepKind.PLAIN, 0.2 * place - 0.3, 0.2 * place)
    # The first run of a program takes longer.
    for now in (9.0, 9.4, 9.8):
        times.read(StepKind.VERIFYING, now - 0.4, now)
    assert decides.price == pytest.approx(2.0)
    # A prompt in between says nothing of a step.
    times.interrupted()
    times.read(StepKind.VERIFYING, 10.0, 19.0)
    assert decides.price == pytest.approx(2.0)


def test_a_step_that_did_not_follow_another_on_the_device_does_not_count_as_a_plain_one() -> None:
    times = StepTimes()
    for place in range(4):
        times.read(StepKind.PLAIN, place + 0.5, place + 1.0)
    assert times.of(StepKind.PLAIN) is None


def test_a_price_that_was_refused_for_long_is_measured_again() -> None:
    times = StepTimes()
    decides, copying = Speculation(4, 1000, times), cast(RequestState, Copying())
    for second in range(20):
        times.read(StepKind.PLAIN, second - 1.5, float(second))
    soonest, at_most = FORGET_AFTER
    now = 19.0
    for expected in (soonest, 2 * soonest, 4 * soonest, at_most, at_most):
        for _ in range(3):
            now += 1000.0
            times.read(StepKind.VERIFYING, now - 1000.0, now)
        refused = 0
        while not decides.drafts({0: copying}):
            refused += 1
        assert refused == expected


def test_some_steps_that_met_something_else_do_not_make_drafts_too_dear() -> None:
    times = StepTimes()
    decides = Speculation(4, 1000, times)
    for second in range(20):
        times.read(StepKind.PLAIN, second - 1.5, float(second))
    now = 19.0
    for seconds in (11.0, 2.0, 12.0, 2.0, 30.0, 11.0, 2.0):
        now += seconds
        times.read(StepKind.VERIFYING, now - seconds, now)
    assert decides.price == pytest.approx(2.0)


def test_a_batch_pays_for_the_drafts_of_a_row_as_a_whole() -> None:
    decides, copying = Speculation(4, 1000, StepTimes()), cast(RequestState, Copying())
    without = cast(RequestState, Copying(()))
    assert decides.drafts({0: copying}) == {0: [1, 2, 3, 4]}
    assert decides.drafts({0: copying, 3: without}) == {0: [1, 2, 3, 4]}
    assert decides.drafts({0: copying, **dict.fromkeys(range(1, 10), without)}) == {}
