"""Grammars beside a running batch: nobody but the one who asked for a grammar waits for it, or fails with it."""

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.rooms import MakeRoom, Room, request
from text_generation_server.batching.generator import GRAMMAR_TIMEOUT
from text_generation_server.batching.requests import BatchOutcome, FinishReason, Generation, GenerationRequest
from text_generation_server.grammar import constraint, pool
from text_generation_server.grammar.compilation import compile_grammar
from text_generation_server.grammar.definition import Grammar, GrammarKind

WORD = Grammar(GrammarKind.REGEX, "[a-f]{3}")
SLOW = Grammar(GrammarKind.REGEX, "slow|slower")
BAD = Grammar(GrammarKind.REGEX, "(")
DEFECT = Grammar(GrammarKind.REGEX, "defect")


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    return make_room(batch_size=4)


class Compilation:
    """Compiles as ever, but SLOW only once it may, and DEFECT never."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked: list[Grammar] = []

    def __call__(self, grammar: Grammar, vocabulary: Any) -> object:
        self.asked.append(grammar)
        if grammar == SLOW:
            self.may_end.wait(30)
        if grammar == DEFECT:
            raise ZeroDivisionError("a defect")
        return compile_grammar(grammar, vocabulary)


@pytest.fixture
def compilation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compilation]:
    ours = Compilation()
    monkeypatch.setattr(pool, "compile_grammar", ours)
    yield ours
    ours.may_end.set()


def endless(request_id: int, max_new_tokens: int = 40) -> GenerationRequest:
    return request(request_id, max_new_tokens=max_new_tokens, ignore_eos_token=True)


def ids(generations: list[Generation], request_id: int) -> list[int]:
    return [token.id for each in generations if each.request_id == request_id for token in each.tokens]


def last(generations: list[Generation], request_id: int) -> str:
    (text,) = [each.finished.text for each in generations if each.request_id == request_id and each.finished]
    return text


def run_all(room: Room, outcome: BatchOutcome) -> tuple[list[Generation], dict[int, str]]:
    """Decodes until no batch is left; generations and failures."""
    generations, failures = list(outcome.generations), dict(outcome.failures)
    deadline = time.monotonic() + 30
    while outcome.batch is not None:
        assert time.monotonic() < deadline
        outcome = room.generator.decode([outcome.batch.id])
        generations += outcome.generations
        failures |= outcome.failures
    return generations, failures


def test_an_output_matches_its_grammar_and_ends_even_if_the_end_of_sequence_is_ignored(room: Room) -> None:
    for ignored in (False, True):
        *_, end = room.answer(grammar=WORD, max_new_tokens=20, ignore_eos_token=ignored)
        assert end.finished is not None
        assert re.fullmatch("[a-f]{3}", end.finished.text)
        assert end.finished.finish_reason is FinishReason.EOS_TOKEN


def test_a_slow_grammar_stalls_neither_those_who_run_nor_those_who_come(
    room: Room, compilation: Compilation
) -> None:
    expected = ids(room.answer(max_new_tokens=40, ignore_eos_token=True), 0)
    room.generator.prefill(0, [endless(0)])
    parked = room.generator.prefill(1, [request(1, grammar=SLOW, max_new_tokens=20)])
    assert parked.generations == []
    assert parked.batch is not None
    started = time.monotonic()
    generations = list(room.generator.decode([0, 1]).generations)
    generations += [g for _ in range(10) for g in room.generator.decode([0]).generations]
    room.generator.prefill(2, [endless(2)])
    generations += room.generator.decode([0, 2]).generations
    generations += [g for _ in range(10) for g in room.generator.decode([0]).generations]
    assert time.monotonic() - started < 10 * GRAMMAR_TIMEOUT
    assert {g.request_id for g in generations} == {0, 2}
    compilation.may_end.set()
    rest, failures = run_all(room, room.generator.decode([0]))
    assert failures == {}
    assert last(rest, 1) in ("slow", "slower")
    assert expected[1:] == ids(generations + rest, 0)
    assert expected == ids(generations + rest, 2)


def test_a_prefill_waits_for_a_slow_grammar_no_longer_than_its_patience(
    room: Room, compilation: Compilation
) -> None:
    started = time.monotonic()
    outcome = room.generator.prefill(0, [request(0, grammar=SLOW), request(1, grammar=WORD), endless(2)])
    assert time.monotonic() - started < 4 * GRAMMAR_TIMEOUT
    assert {each.request_id for each in outcome.generations} == {1, 2}


def test_a_grammar_that_many_ask_for_is_compiled_once(room: Room, compilation: Compilation) -> None:
    for batch_id in range(3):
        requests = [request(10 * batch_id + i, grammar=WORD, max_new_tokens=9) for i in range(3)]
        generations, failures = run_all(room, room.generator.prefill(batch_id, requests))
        assert failures == {}
        assert {last(generations, each.id) for each in requests} == {last(generations, requests[0].id)}
    assert compilation.asked == [WORD]


@pytest.mark.parametrize(
    ("grammar", "why"),
    [(BAD, "`grammar` cannot be compiled: unclosed group"), (DEFECT, "ZeroDivisionError: a defect")],
    ids=["bad", "defect"],
)
def test_a_grammar_that_cannot_be_compiled_fails_that_request_alone(
    room: Room, compilation: Compilation, grammar: Grammar, why: str
) -> None:
    expected = ids(room.answer(max_new_tokens=40, ignore_eos_token=True), 0)
    requests = [endless(0), request(1, grammar=grammar), request(2, grammar=WORD, max_new_tokens=20)]
    generations, failures = run_all(room, room.generator.prefill(0, requests))
    assert list(failures) == [1]
    assert why in failures[1]
    assert ids(generations, 0) == expected
    assert re.fullmatch("[a-f]{3}", last(generations, 2))
    assert room.engine.live_slots == frozenset()


def test_a_grammar_that_others_delay_for_too_long_is_given_up(
    room: Room, compilation: Compilation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraint, "LONGEST_WAIT", 0.2)
    generations, failures = run_all(room, room.generator.prefill(0, [endless(0), request(1, grammar=SLOW)]))
    assert list(failures) == [1]
    assert "try again later" in failures[1]
    assert len(ids(generations, 0)) == 40


def test_without_a_grammar_no_mask_is_made(room: Room) -> None:
    room.answer(max_new_tokens=20, ignore_eos_token=True)
    assert room.engine.calls["masked decode"] == 0
    room.answer(grammar=WORD, max_new_tokens=20)
    assert room.engine.calls["masked decode"] > 0
    masked = room.engine.calls["masked decode"]
    room.answer(max_new_tokens=20, ignore_eos_token=True)
    assert room.engine.calls["masked decode"] == masked


def test_grammars_that_nobody_waits_for_any_more_do_not_hold_up_a_new_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Grammar] = []

    def slow(grammar: Grammar, vocabulary: Any) -> object:
        begun.append(grammar)
        time.sleep(0.5)
        return compile_grammar(grammar, vocabulary)

    monkeypatch.setattr(pool, "compile_grammar", slow)
    dead = [Grammar(GrammarKind.REGEX, f"dead{index}") for index in range(20)]
    room.generator.prefill(0, [request(index, grammar=grammar) for index, grammar in enumerate(dead)])
    room.generator.clear(None)
    generations, failures = run_all(
        room, room.generator.prefill(1, [request(99, grammar=WORD, max_new_tokens=9)])
    )
    assert failures == {}
    assert re.fullmatch("[a-f]{3}", last(generations, 99))
    assert len(begun) <= 2 + 1, "those that two threads had begun, and the new one"


def test_a_grammar_is_compiled_as_long_as_one_of_several_waits_for_it(
    room: Room, compilation: Compilation
) -> None:
    blocked = [request(index, grammar=SLOW, max_new_tokens=9) for index in range(2)]
    outcome = room.generator.prefill(0, blocked)
    room.generator.filter(0, [1])
    compilation.may_end.set()
    generations, failures = run_all(room, room.generator.decode([0]))
    assert outcome.generations == []
    assert failures == {}
    assert last(generations, 1) in ("slow", "slower")


def test_with_a_grammar_the_model_runs_ahead_and_chooses_after_the_step_before_was_read(room: Room) -> None:
    room.answer(grammar=WORD, max_new_tokens=20)
    events = room.engine.timeline
    steps = room.engine.calls["masked decode"]
    assert events[:4] == ["extend 0", "start 1", "read extend 0", "choose 1"]
    for number in range(1, steps):
        assert events.index(f"start {number + 1}") < events.index(f"read {number}")
        assert events.index(f"read {number}") < events.index(f"choose {number + 1}")
