"""What the fake engine has besides the contract: tokens by a function, planned failures, counted calls."""

import pytest

from support.driver import prefill, score
from text_generation_server.engine.contract import ChosenTokens, Prefix
from text_generation_server.engine.fake import MEANINGLESS_TOKEN, FakeEngine
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()


def step(engine: FakeEngine) -> dict[int, list[int]]:
    return ids(engine.start_step().choose().read())


def ids(chosen: ChosenTokens) -> dict[int, list[int]]:
    return {slot: [token.token_id for token in tokens] for slot, tokens in chosen.items()}


def test_each_token_is_a_function_of_all_tokens_before_it() -> None:
    engine = FakeEngine(next_token=sum, batch_size=2)
    prefill(engine, 1, [1, 2])
    assert step(engine) == {1: [3]}
    assert step(engine) == {1: [6]}
    assert step(engine) == {1: [12]}


def test_a_step_may_choose_several_tokens() -> None:
    engine = FakeEngine(next_token=sum, tokens_per_step=2)
    prefill(engine, 1, [1, 2])
    assert step(engine) == {1: [3, 6]}


def test_a_full_slot_gets_no_token_and_no_step_once_that_was_read() -> None:
    engine = FakeEngine(max_length=4)
    prefill(engine, 0, [1, 2, 3])
    filling = engine.start_step().choose()
    assert step(engine) == {0: [MEANINGLESS_TOKEN]}
    filling.read()
    with pytest.raises(RuntimeError, match="Slot 0 is full"):
        engine.start_step()


def test_planned_failures_happen_once_at_the_start_or_when_the_outcome_is_read() -> None:
    engine = FakeEngine()
    engine.fail_next("extend", OSError("lost"))
    with pytest.raises(OSError, match="lost"):
        prefill(engine, 0, [1, 2])
    assert engine.live_slots == frozenset()
    engine.extend().read()
    engine.fail_next("decode", OSError("late"), at="read")
    pending = engine.start_step().choose()
    with pytest.raises(OSError, match="late"):
        pending.read()
    step(engine)


def test_calls_are_counted_and_fills_remembered() -> None:
    engine = FakeEngine()
    prefill(engine, 2, [7, 8])
    engine.start_step().choose()
    engine.release(2)
    assert engine.calls == {"fill": 1, "extend": 1, "read": 1, "decode": 1, "release": 1}
    assert [(call.slot, call.token_ids, call.sampling) for call in engine.fills] == [(2, (7, 8), GREEDY)]
    assert engine.timeline == ["extend 2", "read extend 2", "start 1", "choose 1"]


def test_a_prefix_that_its_slot_does_not_hold_is_noticed() -> None:
    engine = FakeEngine(adapters=("one",))
    prefill(engine, 0, [1, 2, 3, 4])
    prefill(engine, 1, [1, 2, 3, 5], prefix=Prefix(0, 3))
    for prompt, length, adapter in (([1, 9, 3], 2, None), ([1, 2, 3, 4, 5], 4, None), ([1, 2, 3], 2, "one")):
        with pytest.raises(RuntimeError, match="not the prefix"):
            engine.fill(2, prompt, GREEDY, adapter=adapter, prefix=Prefix(0, length))


def test_a_broken_engine_says_so() -> None:
    engine = FakeEngine()
    engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.check_health()


def test_slots_with_different_adapters_get_different_tokens() -> None:
    engine = FakeEngine(next_token=sum, batch_size=3, adapters=("one", "two"), scores_prompts=True)
    for slot, adapter in enumerate([None, "one", "two"]):
        prefill(engine, slot, [1, 2], adapter=adapter)
    assert step(engine) == {0: [3], 1: [4], 2: [5]}
    engine.release(2)
    prefill(engine, 2, [1, 2])
    assert step(engine) == {0: [6], 1: [8], 2: [3]}
    engine.release(2)
    assert score(engine, 2, [1, 2]) != score(engine, 2, [1, 2], "one")
