"""The fake engine keeps the engine contract strictly."""

import pytest

from text_generation_server.engine.contract import Engine, WarmupStep
from text_generation_server.engine.fake import MEANINGLESS_TOKEN, FakeEngine
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()


def test_each_token_is_a_function_of_all_tokens_before_it() -> None:
    engine: Engine = FakeEngine(next_token=sum, batch_size=2)
    first = engine.prefill(1, [1, 2], GREEDY).read()
    assert (first.token_ids, len(first.logprobs)) == ([3], 1)
    assert engine.decode().read().token_ids == [MEANINGLESS_TOKEN, 6]
    assert engine.decode().read().token_ids == [MEANINGLESS_TOKEN, 12]


def test_the_default_model_gives_equal_slots_equal_tokens_within_the_vocabulary() -> None:
    engine = FakeEngine(vocab_size=10, batch_size=2)
    firsts = [engine.prefill(slot, [4, 5], GREEDY).read() for slot in (0, 1)]
    assert firsts[0] == firsts[1]
    seen = [engine.decode().read().token_ids for _ in range(20)]
    assert all(a == b and 0 <= a < 10 for a, b in seen)
    assert len({a for a, _ in seen}) > 3


def test_steps_may_be_started_before_the_one_before_was_read() -> None:
    engine = FakeEngine(next_token=sum, batch_size=1)
    prefill, step, next_step = engine.prefill(0, [1], GREEDY), engine.decode(), engine.decode()
    assert [pending.read().token_ids for pending in (next_step, step, prefill)] == [[4], [2], [1]]


def test_a_live_slot_cannot_be_filled_until_it_is_released() -> None:
    engine = FakeEngine()
    engine.prefill(0, [1], GREEDY)
    with pytest.raises(RuntimeError, match="Slot 0 is live"):
        engine.prefill(0, [1], GREEDY)
    engine.release(0)
    engine.release(0)
    engine.prefill(0, [1], GREEDY)


def test_a_slot_that_does_not_exist_cannot_be_filled() -> None:
    with pytest.raises(RuntimeError, match="no slot 4"):
        FakeEngine(batch_size=4).prefill(4, [1], GREEDY)


@pytest.mark.parametrize("length", [0, 8])
def test_a_prompt_must_fit(length: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 7 tokens. Given: {length}"):
        FakeEngine(max_length=8).prefill(0, [1] * length, GREEDY)


def test_a_full_slot_cannot_be_decoded() -> None:
    engine = FakeEngine(max_length=4)
    engine.prefill(0, [1, 2, 3], GREEDY)
    with pytest.raises(RuntimeError, match="Slot 0 is full"):
        engine.decode()


def test_nothing_can_be_decoded_while_no_slot_is_live() -> None:
    engine = FakeEngine()
    engine.prefill(0, [1], GREEDY)
    engine.release(0)
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.decode()


def test_an_outcome_is_read_once() -> None:
    pending = FakeEngine().prefill(0, [1], GREEDY)
    pending.read()
    with pytest.raises(RuntimeError, match="once"):
        pending.read()


def test_planned_failures_happen_once_at_the_start_or_when_the_outcome_is_read() -> None:
    engine = FakeEngine()
    engine.fail_next("prefill", OSError("lost"))
    with pytest.raises(OSError, match="lost"):
        engine.prefill(0, [1], GREEDY)
    assert engine.live_slots == frozenset()
    engine.prefill(0, [1], GREEDY).read()
    engine.fail_next("decode", OSError("late"), at="read")
    pending = engine.decode()
    with pytest.raises(OSError, match="late"):
        pending.read()
    engine.decode().read()


def test_calls_are_counted_and_prefills_remembered() -> None:
    engine = FakeEngine()
    engine.prefill(2, [7, 8], GREEDY).read()
    engine.decode()
    engine.release(2)
    assert engine.calls == {"prefill": 1, "read": 1, "decode": 1, "release": 1}
    assert [(call.slot, call.token_ids, call.sampling) for call in engine.prefills] == [(2, (7, 8), GREEDY)]


def test_warm_up_reports_each_program_once() -> None:
    engine = FakeEngine()
    steps: list[WarmupStep] = []
    engine.warm_up(steps.append)
    engine.warm_up(steps.append)
    assert [(step.program, step.index, step.count) for step in steps] == [("prefill", 1, 2), ("decode", 2, 2)]


def test_a_broken_engine_says_so() -> None:
    engine = FakeEngine()
    engine.check_health()
    engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.check_health()


def test_slots_with_different_adapters_get_different_tokens() -> None:
    engine = FakeEngine(next_token=sum, batch_size=3, adapters=("one", "two"), scores_prompts=True)
    for slot, adapter in enumerate([None, "one", "two"]):
        engine.prefill(slot, [1, 2], GREEDY, adapter=adapter)
    assert engine.decode().read().token_ids == [6, 8, 10]
    engine.release(2)
    engine.prefill(2, [1, 2], GREEDY)
    assert engine.decode().read().token_ids == [12, 16, 6]
    assert engine.score_prompt([1, 2]) != engine.score_prompt([1, 2], "one")


def test_an_adapter_must_be_loaded() -> None:
    with pytest.raises(ValueError, match="no adapter 'one'"):
        FakeEngine().prefill(0, [1], GREEDY, adapter="one")
