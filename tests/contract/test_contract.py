"""Each sentence of the engine contract that every engine can hold."""

import numpy as np
import pytest

from support.driver import prefill, score, step
from text_generation_server.engine.contract import (
    AllowedTokens,
    ChosenTokens,
    Engine,
    Prefix,
    Wanted,
    WarmupProgress,
)
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()
PROMPT = [3, 1, 2]


def ids(chosen: ChosenTokens, slot: int) -> list[int]:
    return [token.token_id for token in chosen[slot]]


def only(engine: Engine, token_id: int) -> AllowedTokens:
    mask = np.zeros(-(-engine.info.vocab_size // 32), dtype=np.int32)
    mask[token_id // 32] = np.array(1 << (token_id % 32), dtype=np.uint32).view(np.int32)
    return mask


def alone(engine: Engine, tokens: int, prompt: list[int] = PROMPT) -> list[int]:
    """The first tokens after a prompt, one step at a time, in slot 0; which is then free."""
    prefill(engine, 0, prompt)
    chosen: list[int] = []
    while len(chosen) < tokens:
        chosen += ids(step(engine), 0)
    engine.release(0)
    return chosen[:tokens]


def test_a_prompt_of_one_token_is_live_at_once_and_a_longer_one_with_its_last_piece(engine: Engine) -> None:
    assert engine.fill(0, [5], GREEDY)
    assert not engine.fill(1, PROMPT, GREEDY)
    assert list(step(engine)) == [0]
    piece = engine.extend()
    assert (dict(piece.held), list(piece.completed)) == ({1: 2}, [1])
    assert piece.read() == {}
    assert list(step(engine)) == [0, 1]


def test_nothing_is_extended_while_no_slot_is_filling(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="No slot is filling"):
        engine.extend()
    engine.fill(0, PROMPT, GREEDY)
    engine.extend()
    with pytest.raises(RuntimeError, match="No slot is filling"):
        engine.extend()


def test_prompts_that_are_filled_together_share_a_piece_and_change_nothing(engine: Engine) -> None:
    expected = [alone(engine, 3), alone(engine, 3, [7, 8, 9, 7, 8])]
    engine.fill(0, PROMPT, GREEDY)
    engine.fill(1, [7, 8, 9, 7, 8], GREEDY)
    completed: list[int] = []
    while len(completed) < 2:
        completed += engine.extend().completed
    assert completed == [0, 1]
    chosen = [step(engine) for _ in range(3)]
    assert [[token for each in chosen for token in ids(each, slot)][:3] for slot in (0, 1)] == expected


def test_steps_change_nothing_in_a_slot_that_is_filling(engine: Engine) -> None:
    expected = alone(engine, 3, [7, 8, 9, 7, 8])
    prefill(engine, 0, PROMPT)
    engine.fill(1, [7, 8, 9, 7, 8], GREEDY)
    for _ in range(3):
        assert list(step(engine)) == [0]
    engine.extend()
    chosen = [step(engine) for _ in range(3)]
    assert [token for each in chosen for token in ids(each, 1)][:3] == expected


def test_a_prompt_that_was_released_half_filled_leaves_its_slot_clean(engine: Engine) -> None:
    expected = alone(engine, 3)
    engine.fill(0, [9] * (engine.info.max_length - 1), GREEDY)
    engine.release(0)
    engine.fill(0, [8] * (engine.info.max_length - 1), GREEDY)
    engine.extend()
    engine.release(0)
    assert alone(engine, 3) == expected


@pytest.mark.parametrize("source", [0, 1])
@pytest.mark.parametrize("length", [1, 3, 5, 6])
def test_a_prompt_may_begin_with_what_a_slot_holds(engine: Engine, source: int, length: int) -> None:
    prompt = [7, 8, 9, 7, 8, 3]
    expected = alone(engine, 3, prompt)
    engine.fill(source, [*prompt[:length], 1], GREEDY)
    while not engine.extend().completed:
        pass
    step(engine)
    engine.release(source)
    prefill(engine, 0, prompt, prefix=Prefix(source, length))
    chosen = [step(engine) for _ in range(3)]
    assert [token for each in chosen for token in ids(each, 0)][:3] == expected


def test_a_prefix_may_be_that_of_a_live_slot_which_goes_on(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    first = ids(step(engine), 0)
    prefill(engine, 1, PROMPT, prefix=Prefix(0, 2))
    chosen = [step(engine) for _ in range(5)]
    assert [*first, *(token for each in chosen for token in ids(each, 0))][:6] == expected
    assert [token for each in chosen for token in ids(each, 1)][:5] == expected[:5]


def test_a_prefix_is_part_of_the_prompt_and_of_a_slot(engine: Engine) -> None:
    for prefix in (Prefix(0, 4), Prefix(2, 1), Prefix(-1, 1)):
        with pytest.raises(ValueError, match="cannot begin with"):
            engine.fill(0, PROMPT, GREEDY, prefix=prefix)


def test_the_outcome_of_a_step_has_the_live_slots_alone_and_tokens_of_the_vocabulary(engine: Engine) -> None:
    prefill(engine, 1, PROMPT)
    chosen = step(engine)
    assert list(chosen) == [1]
    assert all(0 <= token.token_id < engine.info.vocab_size and token.logprob <= 0 for token in chosen[1])


def test_a_slot_in_use_cannot_be_filled_until_it_is_released(engine: Engine) -> None:
    engine.fill(0, PROMPT, GREEDY)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in use"):
            engine.fill(0, PROMPT, GREEDY)
        engine.fill(1, PROMPT, GREEDY)
        engine.extend()
        engine.release(1)
    engine.release(0)
    engine.fill(0, PROMPT, GREEDY)


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_does_not_exist_cannot_be_filled(engine: Engine, slot: int) -> None:
    with pytest.raises(RuntimeError, match=str(slot)):
        engine.fill(slot, PROMPT, GREEDY)


def test_no_step_starts_while_no_slot_is_live(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_step()
    prefill(engine, 0, PROMPT)
    engine.release(0)
    engine.fill(0, PROMPT, GREEDY)
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_step()


def test_an_outcome_is_read_once(engine: Engine) -> None:
    engine.fill(0, PROMPT, GREEDY)
    piece = engine.extend()
    started = engine.start_step().choose()
    for read in (piece.read, started.read):
        read()
        with pytest.raises(RuntimeError, match="once"):
            read()


@pytest.mark.parametrize("excess", [None, 0, 1])
def test_a_prompt_has_at_least_one_token_and_leaves_room_for_another(
    engine: Engine, excess: int | None
) -> None:
    length = 0 if excess is None else engine.info.max_length + excess
    with pytest.raises(ValueError, match=f"Given: {length}"):
        engine.fill(0, [1] * length, GREEDY)
    prefill(engine, 0, [1])
    prefill(engine, 1, [1] * (engine.info.max_length - 1))
    step(engine)


def test_releasing_a_slot_again_changes_nothing(engine: Engine) -> None:
    engine.release(0)
    prefill(engine, 0, PROMPT)
    engine.release(1)
    assert list(step(engine)) == [0]
    engine.release(0)
    engine.release(0)


def test_an_adapter_must_be_loaded(engine: Engine) -> None:
    assert engine.info.adapters == ("one",)
    with pytest.raises(ValueError, match="two"):
        engine.fill(0, PROMPT, GREEDY, adapter="two")
    prefill(engine, 0, PROMPT, adapter="one")
    step(engine)


def test_an_engine_that_does_not_score_prompts_says_so(engine: Engine) -> None:
    assert not engine.info.scores_prompts
    with pytest.raises(RuntimeError, match="score"):
        score(engine, 0, PROMPT)


def test_steps_in_flight_give_the_tokens_of_steps_that_are_read_one_by_one(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    pending = [engine.start_step().choose() for _ in range(6)]
    assert [token for each in pending for token in ids(each.read(), 0)][:6] == expected


def test_a_slot_that_is_filled_while_steps_are_in_flight_is_in_the_steps_after_it_alone(
    engine: Engine,
) -> None:
    expected = alone(engine, 2)
    prefill(engine, 0, PROMPT)
    before = engine.start_step().choose()
    engine.fill(1, PROMPT, GREEDY)
    engine.extend()
    after = [engine.start_step().choose() for _ in range(2)]
    assert list(before.read()) == [0]
    assert [token for each in after for token in ids(each.read(), 1)][:2] == expected


def test_a_step_that_was_started_before_a_release_still_has_the_slot(engine: Engine) -> None:
    expected = alone(engine, 2)
    prefill(engine, 0, PROMPT)
    pending = [engine.start_step().choose() for _ in range(2)]
    engine.release(0)
    assert [token for each in pending for token in ids(each.read(), 0)][:2] == expected


def test_a_slot_that_is_released_and_filled_again_starts_anew(engine: Engine) -> None:
    expected = alone(engine, 4)
    assert alone(engine, 4, [9, 8, 7, 6, 5]) != expected
    assert alone(engine, 4) == expected


def test_steps_that_run_ahead_may_run_past_the_end_of_a_slot_and_harm_no_other(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    prefill(engine, 1, [1] * (engine.info.max_length - 1))
    pending = [engine.start_step().choose() for _ in range(3)]
    engine.release(1)
    chosen = [token for each in pending for token in ids(each.read(), 0)]
    assert chosen[:3] == expected[:3]
    assert ids(step(engine), 0)[:1] == expected[3:4]


def test_a_step_chooses_once(engine: Engine) -> None:
    prefill(engine, 0, PROMPT)
    started = engine.start_step()
    started.choose()
    with pytest.raises(RuntimeError):
        started.choose()


def test_nothing_else_is_asked_before_a_step_has_chosen(engine: Engine) -> None:
    prefill(engine, 0, PROMPT)
    started = engine.start_step()
    with pytest.raises(RuntimeError):
        engine.start_step()
    with pytest.raises(RuntimeError):
        engine.fill(1, PROMPT, GREEDY)
    with pytest.raises(RuntimeError):
        engine.extend()
    assert list(started.choose().read()) == [0]


def test_outcomes_may_be_read_before_a_started_step_has_chosen(engine: Engine) -> None:
    expected = alone(engine, 2)
    prefill(engine, 0, PROMPT)
    pending = engine.start_step().choose()
    started = engine.start_step()
    first = ids(pending.read(), 0)
    assert first + ids(started.choose().read(), 0)[:1] == expected


def test_only_allowed_tokens_are_chosen(engine: Engine) -> None:
    for token_id in (0, 31, 33):
        prefill(engine, 0, PROMPT)
        everything = np.full_like(only(engine, 0), -1)
        for allowed in (token_id, token_id + 1):
            masks = np.stack([only(engine, allowed), everything])
            assert ids(engine.start_step().choose(masks).read(), 0) == [allowed]
        engine.release(0)


def test_the_best_tokens_come_with_each_token_of_the_slots_that_asked(engine: Engine) -> None:
    prefill(engine, 1, PROMPT)
    prefill(engine, 0, PROMPT, ranked=True)
    chosen = step(engine)
    for token in chosen[0]:
        assert token.ranked is not None
        assert token.ranked.token_ids[0] == token.token_id
        assert token.ranked.logprobs == sorted(token.ranked.logprobs, reverse=True)
    assert all(token.ranked is None for token in chosen[1])
    engine.release(0)
    prefill(engine, 0, PROMPT)
    assert step(engine)[0][0].ranked is None


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


def test_drafts_that_would_have_been_chosen_are_and_one_token_more(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    assert ids(engine.verify({0: expected[:3]}).read(), 0) == expected[:4]
    assert ids(engine.verify({0: expected[4:5]}).read(), 0) == expected[4:6]


def test_from_the_first_draft_that_is_not_chosen_none_counts(engine: Engine) -> None:
    expected = alone(engine, 6)
    other = (expected[1] + 1) % engine.info.vocab_size
    prefill(engine, 0, PROMPT)
    assert ids(engine.verify({0: [expected[0], other, expected[2]]}).read(), 0) == expected[:2]
    assert ids(step(engine), 0)[:1] == expected[2:3]
    assert ids(engine.verify({0: [other, other]}).read(), 0)[0] == expected[3]


def test_each_slot_has_its_own_number_of_drafts_and_each_gets_a_token(engine: Engine) -> None:
    expected, another = alone(engine, 5), alone(engine, 5, [9, 8, 7])
    prefill(engine, 0, PROMPT)
    prefill(engine, 1, [9, 8, 7])
    chosen = engine.verify({1: another[:2]}).read()
    assert (ids(chosen, 0), ids(chosen, 1)) == (expected[:1], another[:3])
    chosen = engine.verify({0: expected[1:4], 1: []}).read()
    assert (ids(chosen, 0), ids(chosen, 1)) == (expected[1:5], another[3:4])


def test_each_place_of_a_verification_has_its_own_allowed_tokens(engine: Engine) -> None:
    first, second, third = 11, 12, 13
    everything = np.full_like(only(engine, 0), -1)
    masks = [np.stack([only(engine, token), everything]) for token in (first, second, third)]
    other = alone(engine, 2)
    prefill(engine, 0, PROMPT)
    prefill(engine, 1, PROMPT)
    chosen = engine.verify({0: [first, second]}, masks).read()
    assert (ids(chosen, 0), ids(chosen, 1)) == ([first, second, third], other[:1])
    # A draft that its place does not allow is not chosen, and places without masks allow all.
    chosen = engine.verify({0: [first, second], 1: other[1:]}, masks[2:]).read()
    assert ids(chosen, 0) == [third]
    assert ids(chosen, 1)[0] == other[1]


def test_plain_steps_may_follow_a_verification_before_it_is_read(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    pending = [engine.verify({0: expected[:2]}), engine.start_step().choose(), engine.start_step().choose()]
    assert [token for each in pending for token in ids(each.read(), 0)][:5] == expected[:5]


def test_a_verification_comes_with_the_best_tokens_of_each_place(engine: Engine) -> None:
    expected = alone(engine, 3)
    prefill(engine, 0, PROMPT, ranked=True)
    chosen = engine.verify({0: expected[:2]}).read()[0]
    assert [token.ranked.token_ids[0] for token in chosen if token.ranked] == expected


def test_drafts_fill_a_slot_to_its_last_token_and_no_further(engine: Engine) -> None:
    length = engine.info.max_length
    prompt = [1] * (length - 4)
    expected = alone(engine, 4, prompt)
    prefill(engine, 0, prompt)
    with pytest.raises(ValueError, match="at most 3"):
        engine.verify({0: expected})
    assert ids(engine.verify({0: expected[:3]}).read(), 0) == expected
    engine.release(0)
    prefill(engine, 0, prompt)
    step(engine)
    with pytest.raises(ValueError, match="at most 2"):
        engine.verify({0: expected[1:]})
    assert ids(engine.verify({0: expected[1:3]}).read(), 0) == expected[1:]


def test_only_live_slots_have_drafts(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.verify({})
    prefill(engine, 0, PROMPT)
    with pytest.raises(RuntimeError, match="Slot 1 is not live"):
        engine.verify({1: [5]})


def test_a_verification_neither_harms_a_slot_that_is_filling_nor_one_that_is_free(engine: Engine) -> None:
    expected = alone(engine, 4)
    prefill(engine, 1, PROMPT)
    engine.fill(0, PROMPT, GREEDY)
    engine.verify({1: expected[:3]}).read()
    engine.extend()
    engine.release(1)
    assert ids(engine.verify({0: expected[:2]}).read(), 0) == expected[:3]
    # The free slot still holds its prompt.
    prefill(engine, 1, PROMPT, prefix=Prefix(1, 2))
    assert ids(step(engine), 1)[:1] == expected[:1]


def test_several_steps_choose_what_single_ones_do(engine: Engine) -> None:
    expected, another = alone(engine, 8), alone(engine, 7, [9, 8, 7])
    prefill(engine, 0, PROMPT)
    assert ids(engine.start_steps(3, {0: Wanted(9)}).read(), 0) == expected[:3]
    prefill(engine, 1, [9, 8, 7])
    chosen = engine.start_steps(4, {0: Wanted(9), 1: Wanted(9)}).read()
    assert (ids(chosen, 0), ids(chosen, 1)) == (expected[3:7], another[:4])
    chosen = step(engine)
    assert (ids(chosen, 0)[:1], ids(chosen, 1)[:1]) == (expected[7:], another[4:5])


def test_several_steps_end_when_no_slot_wants_any_more(engine: Engine) -> None:
    expected = alone(engine, 8)
    end = expected[2]
    first = expected.index(end) + 1
    prefill(engine, 0, PROMPT)
    prefill(engine, 1, [9, 8, 7])
    chosen = engine.start_steps(4, {0: Wanted(9, frozenset({end, 1}))}).read()
    assert (ids(chosen, 0), len(chosen[1])) == (expected[:first], first)
    assert ids(engine.start_steps(4, {0: Wanted(2), 1: Wanted(1)}).read(), 0) == expected[first : first + 2]
    assert ids(step(engine), 0)[:1] == expected[first + 2 : first + 3]


def test_plain_steps_may_follow_several_before_these_are_read(engine: Engine) -> None:
    expected = alone(engine, 6)
    prefill(engine, 0, PROMPT)
    pending = [engine.start_steps(4, {0: Wanted(3)}), engine.start_step().choose()]
    assert [token for each in pending for token in ids(each.read(), 0)][:4] == expected[:4]
    assert ids(engine.start_steps(2, {0: Wanted(2)}).read(), 0) == expected[4:6]


def test_several_steps_fill_a_slot_and_may_run_past_its_end(engine: Engine) -> None:
    prompt = [1] * (engine.info.max_length - 2)
    expected, another = alone(engine, 2, prompt), alone(engine, 6)
    prefill(engine, 0, prompt)
    prefill(engine, 1, PROMPT)
    chosen = engine.start_steps(4, {0: Wanted(2), 1: Wanted(9)}).read()
    assert (ids(chosen, 0)[:2], ids(chosen, 1)) == (expected, another[:4])
    engine.release(0)
    assert ids(engine.start_steps(2, {1: Wanted(2)}).read(), 1) == another[4:6]


def test_several_steps_are_up_to_so_many_for_live_slots_without_alternatives(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_steps(2, {})
    prefill(engine, 0, PROMPT)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"Given: {count}"):
            engine.start_steps(count, {0: Wanted(9)})
    assert engine.can_start_steps()
    prefill(engine, 1, PROMPT, ranked=True)
    assert not engine.can_start_steps()
    with pytest.raises(RuntimeError, match="lternatives"):
        engine.start_steps(2, {0: Wanted(9)})


def test_several_steps_neither_harm_a_slot_that_is_filling_nor_one_that_is_free(engine: Engine) -> None:
    expected = alone(engine, 4)
    prefill(engine, 1, PROMPT)
    engine.fill(0, PROMPT, GREEDY)
    engine.start_steps(4, {1: Wanted(4)}).read()
    engine.extend()
    engine.release(1)
    assert ids(engine.start_steps(4, {0: Wanted(4)}).read(), 0) == expected
    # The free slot still holds its prompt.
    prefill(engine, 1, PROMPT, prefix=Prefix(1, 2))
    assert ids(step(engine), 1)[:1] == expected[:1]
