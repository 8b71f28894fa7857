"""The engine's contract, sentence by sentence, on the fake engine and on a real one."""

from collections.abc import Iterator

import numpy as np
import pytest

from support import engines
from support.checkpoints import save
from support.lora_adapters import save_adapter
from text_generation_server.engine.contract import ChosenTokens, Engine, PendingOutput, WarmupProgress
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters()
SLOTS, LENGTH = 3, 32


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    directory = tmp_path_factory.mktemp("contract")
    checkpoint = save("llama", directory / "model")
    adapter = save_adapter(checkpoint, directory / "one", 0, r=2, target_modules=["q_proj"])
    return engines.engine(
        checkpoint, batch_size=SLOTS, max_length=LENGTH, scores_prompts=True, adapters=[("one", adapter)]
    )


@pytest.fixture(scope="module")
def without_scores(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    checkpoint = save("llama", tmp_path_factory.mktemp("plain"))
    return engines.loader(checkpoint, batch_size=1, max_length=LENGTH, skip_warmup=True).load()


@pytest.fixture(params=["fake", "real"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine
    if request.param == "fake":
        made = FakeEngine(batch_size=SLOTS, max_length=LENGTH, scores_prompts=True, adapters=("one",))
        made.warm_up(lambda _: None)
    else:
        made = request.getfixturevalue("real")
    yield made
    for slot in range(SLOTS):
        made.release(slot)


def step(engine: Engine) -> PendingOutput:
    return engine.start_step().choose()


def ids(chosen: ChosenTokens) -> dict[int, list[int]]:
    return {slot: [token.token_id for token in tokens] for slot, tokens in chosen.items()}


def test_the_outcome_of_a_prefill_has_its_slot_alone(engine: Engine) -> None:
    engine.prefill(0, [5, 6], GREEDY).read()
    outcome = engine.prefill(2, [7, 8, 9], GREEDY).read()
    assert list(outcome) == [2]
    assert len(outcome[2]) == 1
    assert 0 <= outcome[2][0].token_id < engine.info.vocab_size
    assert outcome[2][0].logprob < 0


def test_the_outcome_of_a_step_has_each_live_slot(engine: Engine) -> None:
    for slot in (0, 2):
        engine.prefill(slot, [5, 6], GREEDY)
    assert set(step(engine).read()) == {0, 2}
    engine.release(0)
    assert set(step(engine).read()) == {2}


def test_steps_run_in_the_order_in_which_they_were_started_whenever_they_are_read(engine: Engine) -> None:
    engine.prefill(1, [5, 6, 7], GREEDY).read()
    in_turn = [ids(step(engine).read())[1] for _ in range(4)]
    engine.release(1)
    engine.prefill(1, [5, 6, 7], GREEDY).read()
    pending = [step(engine) for _ in range(4)]
    assert [ids(each.read())[1] for each in pending] == in_turn


def test_a_prefill_between_two_steps_leaves_the_other_slots_alone(engine: Engine) -> None:
    engine.prefill(1, [5, 6, 7], GREEDY).read()
    alone = [ids(step(engine).read())[1] for _ in range(4)]
    engine.release(1)
    engine.prefill(1, [5, 6, 7], GREEDY)
    first = step(engine)
    engine.prefill(0, [9], GREEDY)
    rest = [step(engine) for _ in range(3)]
    assert [ids(each.read())[1] for each in (first, *rest)] == alone


def test_an_outcome_is_read_once(engine: Engine) -> None:
    pending = engine.prefill(0, [1], GREEDY)
    pending.read()
    with pytest.raises(RuntimeError, match="read once"):
        pending.read()


def test_a_step_is_chosen_once_and_before_anything_else(engine: Engine) -> None:
    engine.prefill(0, [1], GREEDY).read()
    started = engine.start_step()
    with pytest.raises(RuntimeError, match="not chosen"):
        engine.start_step()
    with pytest.raises(RuntimeError, match="not chosen"):
        engine.prefill(1, [1], GREEDY)
    pending = started.choose()
    with pytest.raises(RuntimeError, match="chosen before"):
        started.choose()
    assert set(pending.read()) == {0}


def test_a_live_slot_cannot_be_filled_until_it_is_released(engine: Engine) -> None:
    engine.prefill(0, [1], GREEDY)
    with pytest.raises(RuntimeError, match="Slot 0 is live"):
        engine.prefill(0, [1], GREEDY)
    engine.release(0)
    engine.release(0)
    engine.prefill(0, [1], GREEDY).read()


def test_a_slot_that_does_not_exist_cannot_be_filled(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="no slot 3"):
        engine.prefill(3, [1], GREEDY)


@pytest.mark.parametrize("length", [0, LENGTH])
def test_a_prompt_must_leave_room_for_one_token(engine: Engine, length: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {LENGTH - 1} tokens. Given: {length}"):
        engine.prefill(0, [1] * length, GREEDY)
    engine.prefill(0, [1] * (LENGTH - 1), GREEDY).read()


def test_a_step_that_was_started_ahead_may_run_past_the_end_of_a_slot(engine: Engine) -> None:
    engine.prefill(0, [1] * (LENGTH - 1), GREEDY)
    engine.prefill(1, [5, 6], GREEDY)
    ahead = [step(engine) for _ in range(3)]
    engine.release(0)
    assert all(1 in each.read() for each in ahead)


def test_nothing_can_be_stepped_while_no_slot_is_live(engine: Engine) -> None:
    engine.prefill(0, [1], GREEDY)
    engine.release(0)
    with pytest.raises(RuntimeError, match="No slot is live"):
        engine.start_step()


def test_an_adapter_must_be_loaded_and_changes_the_scores(engine: Engine) -> None:
    with pytest.raises(ValueError, match="no adapter 'other'"):
        engine.prefill(0, [1], GREEDY, adapter="other")
    assert engine.score_prompt([1, 2, 3]) != engine.score_prompt([1, 2, 3], "one")
    engine.prefill(0, [1, 2], GREEDY, adapter="one").read()


def test_the_best_tokens_come_with_the_slots_that_asked_and_with_no_other(engine: Engine) -> None:
    first = engine.prefill(0, [4, 5], GREEDY, ranked=True).read()[0][0]
    assert engine.prefill(1, [4, 5], GREEDY).read()[1][0].ranked is None
    second = step(engine).read()
    for token in (first, second[0][0]):
        assert token.ranked is not None
        assert token.ranked.token_ids[0] == token.token_id
        assert token.ranked.logprobs == sorted(token.ranked.logprobs, reverse=True)
    assert second[1][0].ranked is None


def test_only_allowed_tokens_are_chosen(engine: Engine) -> None:
    only = np.zeros(words(engine.info.vocab_size), np.int32)
    only[77 // 32] = 1 << (77 % 32)
    assert ids(engine.prefill(0, [4, 5], GREEDY, allowed=only).read()) == {0: [77]}
    engine.prefill(1, [4, 5], GREEDY).read()
    masks = np.full((SLOTS, len(only)), -1, np.int32)
    masks[0] = only
    assert ids(engine.start_step().choose(masks).read())[0] == [77]


def test_a_prompt_has_a_logprob_for_each_token_but_the_first(engine: Engine) -> None:
    scores = engine.score_prompt([1, 2, 3, 4])
    assert len(scores) == 3
    assert all(score < 0 for score in scores)
    assert engine.score_prompt([1]) == []


def test_prompts_are_not_scored_unless_that_was_asked_for(without_scores: Engine) -> None:
    for engine in (FakeEngine(), without_scores):
        with pytest.raises(RuntimeError, match="does not score prompts"):
            engine.score_prompt([1, 2])


def test_a_second_warm_up_returns_at_once_and_health_is_good(engine: Engine) -> None:
    steps: list[WarmupProgress] = []
    engine.warm_up(steps.append)
    assert steps == []
    engine.check_health()
    assert engine.statistics().compilations_after_warm_up == 0
