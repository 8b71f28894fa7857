"""What the fake engine has beside the contract, which tests/contract holds it to."""

import pytest

from text_generation_server.engine.contract import ChosenTokens, WarmupProgress
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()


def step(engine: FakeEngine) -> dict[int, int]:
    return ids(engine.start_step().choose().read())


def ids(chosen: ChosenTokens) -> dict[int, int]:
    return {slot: token.token_id for slot, (token,) in chosen.items()}


def test_each_token_is_a_function_of_all_tokens_before_it() -> None:
    engine = FakeEngine(next_token=sum, batch_size=2)
    assert ids(engine.prefill(1, [1, 2], GREEDY).read()) == {1: 3}
    assert [step(engine), step(engine)] == [{1: 6}, {1: 12}]


def test_the_default_model_gives_equal_slots_equal_tokens_within_the_vocabulary() -> None:
    engine = FakeEngine(vocab_size=10, batch_size=2)
    firsts = [engine.prefill(slot, [4, 5], GREEDY).read()[slot] for slot in (0, 1)]
    assert firsts[0] == firsts[1]
    seen = [step(engine) for _ in range(20)]
    assert all(tokens[0] == tokens[1] and 0 <= tokens[0] < 10 for tokens in seen)
    assert len({tokens[0] for tokens in seen}) > 3


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
    assert engine.order == ["prefill", "read", "decode"]
    assert [(call.slot, call.token_ids, call.sampling) for call in engine.prefills] == [(2, (7, 8), GREEDY)]


def test_warm_up_reports_each_program_once() -> None:
    engine = FakeEngine()
    steps: list[WarmupProgress] = []
    engine.warm_up(steps.append)
    engine.warm_up(steps.append)
    assert [(each.program, each.index, each.count) for each in steps] == [("prefill", 1, 2), ("decode", 2, 2)]


def test_a_broken_engine_says_so() -> None:
    engine = FakeEngine()
    engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.check_health()


def test_slots_with_different_adapters_get_different_tokens() -> None:
    engine = FakeEngine(next_token=sum, batch_size=3, adapters=("one", "two"))
    for slot, adapter in enumerate([None, "one", "two"]):
        engine.prefill(slot, [1, 2], GREEDY, adapter=adapter)
    assert step(engine) == {0: 6, 1: 8, 2: 10}
    engine.release(2)
    engine.prefill(2, [1, 2], GREEDY)
    assert step(engine) == {0: 12, 1: 16, 2: 6}
