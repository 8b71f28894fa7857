"""Several steps without the host, on an engine without a model: the same answers in fewer programs, and only while
nobody waits and that is faster."""

from typing import cast

import pytest

from batching.test_speculation import EOS, TOKENIZER, fake, ids, never_again, request
from support.rooms import answers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.batching.step_times import StepKind, StepTimes
from text_generation_server.batching.steps_ahead import FORGET_AFTER, MOST_SECONDS, StepsAhead
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.grammar.definition import Grammar, GrammarKind


class FixedTimes(StepTimes):
    """A device that is ten times as fast as the host."""

    def of(self, kind: StepKind) -> float | None:
        return {StepKind.PLAIN: 1e-3, StepKind.LOOPED: 1e-4}.get(kind)


def generator(engine: FakeEngine, eos: frozenset[int] = frozenset()) -> Generator:
    made = Generator(engine, TOKENIZER, eos)
    made._steps_ahead = StepsAhead(engine.info.steps, FixedTimes())
    return made


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_new_tokens": 1},
        {"max_new_tokens": 17},
        {"stop_sequences": ("fg",)},
        {"stop_sequences": ("a",)},
        {"ignore_eos_token": False},
    ],
    ids=str,
)
def test_answers_are_the_same_in_fewer_programs(fields: dict[str, object]) -> None:
    given_requests = [request(0, **fields), request(1, prompt="xy", max_new_tokens=9), request(2, prompt="z")]
    eos = frozenset({40 + 25, ord("f")})
    plain, fast = fake(0, batch_size=3), fake(0, batch_size=3, steps=8)
    expected = answers(generator(plain, eos), given_requests)
    given = answers(generator(fast, eos), given_requests)
    for request_id, answer in given.items():
        assert ids(answer) == ids(expected[request_id])
        assert answer[-1].finished == expected[request_id][-1].finished
    assert plain.calls["steps"] == 0
    assert fast.calls["steps"] > 3
    assert fast.calls["steps"] + fast.calls["decode"] < plain.calls["decode"] / 3


def test_a_slot_is_filled_to_its_last_token() -> None:
    engine = fake(0, max_length=64, steps=8)
    answer = answers(generator(engine), [request(0, max_new_tokens=43)])[0]
    assert ids(answer) == ids(answers(generator(fake(0, max_length=64)), [request(0, max_new_tokens=43)])[0])
    assert len(ids(answer)) == 43
    assert engine.calls["steps"] > 3


def test_the_device_stops_where_the_last_request_ends() -> None:
    engine = fake(0, steps=8)
    end = ids(answers(generator(fake(0)), [request(0)])[0])[10]
    answer = answers(generator(engine, frozenset({end})), [request(0, ignore_eos_token=False)])[0]
    assert ids(answer)[-1] == end
    assert engine.counts[-1][1] < engine.counts[-1][0] == 8
    assert sum(taken for _, taken in engine.counts) + engine.calls["decode"] == len(ids(answer))


def test_an_answer_holds_the_tokens_of_one_program_and_the_next_one_runs_by_then() -> None:
    engine = fake(0, steps=8)
    served = generator(engine)
    outcome = served.prefill(0, [request(0)])
    while outcome.batch is not None:
        assert all(len(each.tokens) <= 8 for each in outcome.generations)
        assert served.steps_in_flight
        outcome = served.decode([0])


def test_nothing_is_in_flight_beside_several_steps() -> None:
    engine = fake(0, steps=8)
    answers(generator(engine), [request(0)])
    assert engine.calls["steps"] > 3
    for place, what in enumerate(engine.timeline):
        if what.startswith("steps"):
            started = {each.split()[1] for each in engine.timeline[:place] if each.startswith("choose")}
            read = {each.split()[-1] for each in engine.timeline[:place] if each.startswith("read")}
            assert started <= read
            assert engine.timeline[place + 1] == f"read {what}"


def test_whoever_waits_for_a_slot_or_a_prompt_is_not_kept_waiting() -> None:
    engine = fake(0, batch_size=2, steps=8, tokens_per_piece=1)
    served = generator(engine)
    served.prefill(0, [request(0, prompt="ab", max_new_tokens=110)])
    for _ in range(4):
        served.decode([0])
    took = engine.calls["steps"]
    assert took
    served.prefill(1, [request(1, max_new_tokens=60), request(2)])
    served.decode([0, 1])
    for _ in range(30):
        # The program that was in flight has been read. The second prompt is on its way, and the third request waits.
        assert engine.calls["steps"] == took
        served.decode([0])
    served.filter(0, [0, 1])
    for _ in range(4):
        served.decode([0])
    assert engine.calls["steps"] > took


@pytest.mark.parametrize(
    "other",
    [
        request(1, grammar=Grammar(GrammarKind.REGEX, "[a-z]{30}")),
        request(1, top_n_tokens=2),
    ],
    ids=["grammar", "alternatives"],
)
def test_grammars_and_alternatives_take_one_step_at_a_time(other: GenerationRequest) -> None:
    engine = fake(0, steps=8)
    served = generator(engine, frozenset({EOS}))
    given = answers(served, [request(0, max_new_tokens=90), other])
    assert len(ids(given[0])) == 90
    # While both ran there were as many programs as tokens; when the first was alone, fewer.
    assert engine.calls["decode"] >= len(ids(given[1]))
    assert engine.calls["steps"] > 3


def test_drafts_that_pay_come_first() -> None:
    engine = fake(4, steps=8)
    served = generator(engine)
    answers(served, [request(0, max_new_tokens=60)])
    assert engine.calls["verify"] > 5
    silent = fake(4, never_again, steps=8)
    answers(generator(silent), [request(0)])
    assert (silent.calls["verify"], silent.calls["steps"] > 3) == (0, True)


def test_a_request_that_leaves_while_steps_run_gets_none_of_their_tokens() -> None:
    engine = fake(0, batch_size=2, steps=8)
    served = generator(engine)
    served.prefill(0, [request(0), request(1, prompt="xy")])
    served.decode([0])
    served.filter(0, [1])
    served.clear(None)
    assert served.steps_in_flight == 0
    expected = ids(answers(generator(fake(0)), [request(0)])[0])
    assert ids(answers(served, [request(0)])[0]) == expected


class Waiting:
    """Stands for a request of which so much is left."""

    def __init__(self, tokens_left: int = 100, tokens_until_recomputed: int | None = None) -> None:
        self.tokens_left = tokens_left
        self.tokens_until_recomputed = tokens_until_recomputed


def waiting(*arguments: int) -> RequestState:
    return cast(RequestState, Waiting(*arguments))


def timed(plain: float, looped: float | None = None, most: int = 16) -> tuple[StepsAhead, StepTimes]:
    """Decisions after some steps that took so many seconds each."""
    times = StepTimes()
    for place in range(5):
        times.read(StepKind.PLAIN, plain * (place - 1.5), plain * place)
    for _ in range(5 if looped is not None else 0):
        times.read(StepKind.LOOPED, 0.0, 4 * (looped or 0.0), 4)
    return StepsAhead(most, times), times


def test_nothing_is_known_before_plain_steps_were_timed() -> None:
    assert StepsAhead(16, StepTimes()).count([waiting()]) == 1
    assert timed(0.001, most=0)[0].count([waiting()]) == 1


@pytest.mark.parametrize(
    ("looped", "count"), [(None, 16), (0.0005, 16), (0.00079, 16), (0.00081, 1), (0.002, 1)]
)
def test_the_host_is_left_out_while_the_device_is_faster(looped: float | None, count: int) -> None:
    assert timed(0.001, looped)[0].count([waiting()]) == count


def test_an_answer_holds_no_more_than_a_glance_of_tokens() -> None:
    assert timed(0.01, 0.005)[0].count([waiting()]) == int(MOST_SECONDS / 0.005) == 5
    assert timed(0.01)[0].count([waiting()]) == 2
    assert timed(0.05, 0.03)[0].count([waiting()]) == 1


def test_no_more_steps_are_taken_than_somebody_wants() -> None:
    decides, _ = timed(0.001, 0.0005)
    assert decides.count([waiting(3), waiting(7)]) == 7
    assert decides.count([waiting(100), waiting(100, 4)]) == 4


def test_both_kinds_are_timed_again_now_and_then() -> None:
    for looped in (0.0005, 0.002):
        decides, times = timed(0.001, looped)
        for _ in range(FORGET_AFTER):
            assert times.of(StepKind.PLAIN) is not None
            decides.count([waiting()])
        assert times.of(StepKind.PLAIN) is None
        assert times.of(StepKind.LOOPED) is None
