"""What the fake engine has besides the contract: tokens by a function, planned failures, counted calls."""

import pytest

from text_generation_server.engine.contract import ChosenTokens
from text_generation_server.engine.fake import MEANINGLESS_TOKEN, FakeEngine
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()


def step(engine: FakeEngine) -> dict[int, list[int]]:
    return ids(engine.start_step().choose().read())


def ids(chosen: ChosenTokens) -> dict[int, list[int]]:
    return {slot: [token.token_id for token in tokens] for slot, tokens in chosen.items()}


def test_each_token_is_a_function_of_all_tokens_before_it() -> None:
    engine = FakeEngine(next_token=sum, batch_size=2)
    assert ids(engine.prefill(1, [1, 2], GREEDY).read()) == {1: [3]}
    assert step(engine) == {1: [6]}
    assert step(engine) == {1: [12]}


def test_a_step_may_choose_several_tokens() -> None:
    engine = FakeEngine(next_token=sum, tokens_per_step=2)
    engine.prefill(1, [1, 2], GREEDY)
    assert step(engine) == {1: [6, 12]}


def test_a_full_slot_gets_no_token_and_no_step_once_that_was_read() -> None:
    engine = FakeEngine(max_length=4)
    filling = engine.prefill(0, [1, 2, 3], GREEDY)
    assert step(engine) == {0: [MEANINGLESS_TOKEN]}
    filling.read()
    with pytest.raises(RuntimeError, match="Slot 0 is full"):
        engine.start_step()


def test_planned_failures_happen_once_at_the_start_or_when_the_outcome_is_read() -> None:
    engine = FakeEngine()
    engine.fail_next("prefill", OSError("lost"))
    with pytest.raises(OSError, match="lost"):
        engine.prefill(0, [1], GREEDY)
    assert engine.live_slots == frozenset()
    engine.prefill(0, [1], GREEDY).read()
    engine.fail_next("decode", OSError("late"), at="read")
    pending = engine.start_step().choose()
    with pytest.raises(OSError, match="late"):
        pending.read()
    step(engine)


def test_calls_are_counted_and_prefills_remembered() -> None:
    engine = FakeEngine()
    engine.prefill(2, [7, 8], GREEDY).read()
    engine.start_step().choose()
    engine.release(2)
    assert engine.calls == {"prefill": 1, "read": 1, "decode": 1, "release": 1}
    assert [(call.slot, call.token_ids, call.sampling) for call in engine.prefills] == [(2, (7, 8), GREEDY)]
    assert engine.timeline == ["prefill 2", "read prefill 2", "start 1", "choose 1"]


def test_a_broken_engine_says_so() -> None:
    engine = FakeEngine()
    engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.check_health()


def test_slots_with_different_adapters_get_different_tokens() -> None:
    engine = FakeEngine(next_token=sum, batch_size=3, adapters=("one", "two"), scores_prompts=True)
    for slot, adapter in enumerate([None, "one", "two"]):
        engine.prefill(slot, [1, 2], GREEDY, adapter=adapter)
    assert step(engine) == {0: [6], 1: [8], 2: [10]}
    engine.release(2)
    engine.prefill(2, [1, 2], GREEDY)
    assert step(engine) == {0: [12], 1: [16], 2: [6]}
    assert engine.score_prompt([1, 2]) != engine.score_prompt([1, 2], "one")
