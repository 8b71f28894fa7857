"""Each sentence of the engine contract that every engine can hold."""

import numpy as np
import pytest

from text_generation_server.engine.contract import AllowedTokens, ChosenTokens, Engine, WarmupProgress
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()
PROMPT = [3, 1, 2]


def ids(chosen: ChosenTokens, slot: int) -> list[int]:
    return [token.token_id for token in chosen[slot]]


def step(engine: Engine) -> ChosenTokens:
    return engine.start_step().choose().read()


def only(engine: Engine, token_id: int) -> AllowedTokens:
    mask = np.zeros(-(-engine.info.vocab_size // 32), dtype=np.int32)
    mask[token_id // 32] = np.array(1 << (token_id % 32), dtype=np.uint32).view(np.int32)
    return mask


def alone(engine: Engine, tokens: int, prompt: list[int] = PROMPT) -> list[int]:
    """The first tokens after a prompt, one step at a time, in slot 0; which is then free."""
    chosen = ids(engine.prefill(0, prompt, GREEDY).read(), 0)
    while len(chosen) < tokens:
        chosen += ids(step(engine), 0)
    engine.release(0)
    return chosen[:tokens]


def test_the_outcome_of_a_prefill_has_its_slot_alone(engine: Engine) -> None:
    engine.prefill(0, PROMPT, GREEDY).read()
    chosen = engine.prefill(1, PROMPT, GREEDY).read()
    assert list(chosen) == [1]
    assert len(chosen[1]) == 1


def test_the_outcome_of_a_step_has_the_live_slots_alone_and_tokens_of_the_vocabulary(engine: Engine) -> None:
    engine.prefill(1, PROMPT, GREEDY).read()
    chosen = step(engine)
    assert list(chosen) == [1]
    assert all(0 <= token.token_id < engine.info.vocab_size and token.logprob <= 0 for token in chosen[1])


def test_a_slot_in_use_cannot_be_filled_until_it_is_released(engine: Engine) -> None:
    engine.prefill(0, PROMPT, GREEDY)
    with pytest.raises(RuntimeError, match="in use"):
        engine.prefill(0, PROMPT, GREEDY)
    engine.release(0)
    engine.prefill(0, PROMPT, GREEDY).read()


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_does_not_exist_cannot_be_filled(engine: Engine, slot: int) -> None:
    with pytest.raises(RuntimeError, match=str(slot)):
        engine.prefill(slot, PROMPT, GREEDY)


def test_no_step_starts_while_no_slot_is_live(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_step()
    engine.prefill(0, PROMPT, GREEDY).read()
    engine.release(0)
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_step()


def test_an_outcome_is_read_once(engine: Engine) -> None:
    pending = engine.prefill(0, PROMPT, GREEDY)
    started = engine.start_step().choose()
    for outcome in (pending, started):
        outcome.read()
        with pytest.raises(RuntimeError, match="once"):
            outcome.read()


@pytest.mark.parametrize("excess", [None, 0, 1])
def test_a_prompt_has_at_least_one_token_and_leaves_room_for_another(
    engine: Engine, excess: int | None
) -> None:
    length = 0 if excess is None else engine.info.max_length + excess
    with pytest.raises(ValueError, match=f"Given: {length}"):
        engine.prefill(0, [1] * length, GREEDY)
    engine.prefill(0, [1], GREEDY).read()
    engine.prefill(1, [1] * (engine.info.max_length - 1), GREEDY).read()


def test_releasing_a_slot_again_changes_nothing(engine: Engine) -> None:
    engine.release(0)
    engine.prefill(0, PROMPT, GREEDY).read()
    engine.release(1)
    assert list(step(engine)) == [0]
    engine.release(0)
    engine.release(0)


def test_an_adapter_must_be_loaded(engine: Engine) -> None:
    assert engine.info.adapters == ("one",)
    with pytest.raises(ValueError, match="two"):
        engine.prefill(0, PROMPT, GREEDY, adapter="two")
    engine.prefill(0, PROMPT, GREEDY, adapter="one").read()


def test_an_engine_that_does_not_score_prompts_says_so(engine: Engine) -> None:
    assert not engine.info.scores_prompts
    with pytest.raises(RuntimeError, match="score"):
        engine.score_prompt(PROMPT)


def test_steps_in_flight_give_the_tokens_of_steps_that_are_read_one_by_one(engine: Engine) -> None:
    expected = alone(engine, 6)
    pending = [engine.prefill(0, PROMPT, GREEDY), *(engine.start_step().choose() for _ in range(5))]
    assert [token for each in pending for token in ids(each.read(), 0)][:6] == expected


def test_a_slot_that_is_filled_while_steps_are_in_flight_is_in_the_steps_after_it_alone(
    engine: Engine,
) -> None:
    expected = alone(engine, 2)
    engine.prefill(0, PROMPT, GREEDY)
    before = engine.start_step().choose()
    joined = engine.prefill(1, PROMPT, GREEDY)
    after = engine.start_step().choose()
    assert list(before.read()) == [0]
    assert [*ids(joined.read(), 1), *ids(after.read(), 1)][:2] == expected


def test_a_step_that_was_started_before_a_release_still_has_the_slot(engine: Engine) -> None:
    expected = alone(engine, 2)
    first = engine.prefill(0, PROMPT, GREEDY)
    pending = engine.start_step().choose()
    engine.release(0)
    assert [*ids(first.read(), 0), *ids(pending.read(), 0)][:2] == expected


def test_a_slot_that_is_released_and_filled_again_starts_anew(engine: Engine) -> None:
    expected = alone(engine, 4)
    assert alone(engine, 4, [9, 8, 7, 6, 5]) != expected
    assert alone(engine, 4) == expected


def test_steps_that_run_ahead_may_run_past_the_end_of_a_slot_and_harm_no_other(engine: Engine) -> None:
    expected = alone(engine, 6)
    engine.prefill(0, PROMPT, GREEDY).read()
    engine.prefill(1, [1] * (engine.info.max_length - 1), GREEDY)
    pending = [engine.start_step().choose() for _ in range(3)]
    engine.release(1)
    chosen = [token for each in pending for token in ids(each.read(), 0)]
    assert chosen[:3] == expected[1:4]
    assert ids(step(engine), 0)[:1] == expected[4:5]


def test_a_step_chooses_once(engine: Engine) -> None:
    engine.prefill(0, PROMPT, GREEDY)
    started = engine.start_step()
    started.choose()
    with pytest.raises(RuntimeError):
        started.choose()


def test_nothing_else_is_asked_before_a_step_has_chosen(engine: Engine) -> None:
    engine.prefill(0, PROMPT, GREEDY)
    started = engine.start_step()
    with pytest.raises(RuntimeError):
        engine.start_step()
    with pytest.raises(RuntimeError):
        engine.prefill(1, PROMPT, GREEDY)
    assert list(started.choose().read()) == [0]


def test_outcomes_may_be_read_before_a_started_step_has_chosen(engine: Engine) -> None:
    expected = alone(engine, 2)
    pending = engine.prefill(0, PROMPT, GREEDY)
    started = engine.start_step()
    first = ids(pending.read(), 0)
    assert first + ids(started.choose().read(), 0)[:1] == expected


def test_only_allowed_tokens_are_chosen(engine: Engine) -> None:
    for token_id in (0, 31, 33):
        assert ids(engine.prefill(0, PROMPT, GREEDY, allowed=only(engine, token_id)).read(), 0) == [token_id]
        everything = np.full_like(only(engine, 0), -1)
        masks = np.stack([only(engine, token_id + 1), everything])
        assert ids(engine.start_step().choose(masks).read(), 0) == [token_id + 1]
        engine.release(0)


def test_the_best_tokens_come_with_each_token_of_the_slots_that_asked(engine: Engine) -> None:
    engine.prefill(1, PROMPT, GREEDY).read()
    (first,) = engine.prefill(0, PROMPT, GREEDY, ranked=True).read()[0]
    chosen = step(engine)
    for token in (first, *chosen[0]):
        assert token.ranked is not None
        assert token.ranked.token_ids[0] == token.token_id
        assert token.ranked.logprobs == sorted(token.ranked.logprobs, reverse=True)
    assert all(token.ranked is None for token in chosen[1])
    engine.release(0)
    (again,) = engine.prefill(0, PROMPT, GREEDY).read()[0]
    assert again.ranked is None


def test_a_second_warm_up_returns_at_once(engine: Engine) -> None:
    seen: list[WarmupProgress] = []
    engine.warm_up(seen.append)
    assert [each.index for each in seen] == list(range(1, len(seen) + 1))
    assert {each.count for each in seen} <= {len(seen)}
    count = len(seen)
    engine.warm_up(seen.append)
    assert len(seen) == count


def test_a_healthy_engine_says_nothing_and_tells_its_statistics(engine: Engine) -> None:
    engine.check_health()
    assert engine.statistics().compilations_after_warm_up == 0
