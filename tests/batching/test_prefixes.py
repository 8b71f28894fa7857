"""Beginnings of prompts that slots hold: found, given away last, and never shared between adapters."""

import pytest

from support.rooms import MakeRoom, Room, request
from text_generation_server.batching.prefixes import BASE, WORTH_WAITING, PrefixIndex
from text_generation_server.batching.requests import BatchOutcome
from text_generation_server.engine.contract import Prefix

SYSTEM = "You are an assistant. " * 20
"""More than 300 tokens of the byte-level tokenizer: five pieces of the fake engine."""


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    return make_room(batch_size=3, max_length=600, adapters=("law",))


def prefix_of_last_fill(room: Room) -> Prefix | None:
    return room.engine.fills[-1].prefix


def test_a_later_turn_of_a_chat_continues_in_the_slot_of_the_one_before(room: Room) -> None:
    first = room.answer(prompt=SYSTEM + "Hello", max_new_tokens=6, ignore_eos_token=True)
    said = first[-1].finished
    assert said is not None
    computed = room.engine.calls["extend"]
    prompt = room.engine.fills[0].token_ids
    output = tuple(token.id for generation in first for token in generation.tokens)
    index = room.generator.prefixes
    assert index.find([*prompt, *output, 5, 6, 7], BASE).prefix == Prefix(0, len(prompt) + 5)
    room.answer(prompt=SYSTEM + "Hello" + " again", max_new_tokens=2, ignore_eos_token=True)
    found = prefix_of_last_fill(room)
    assert found is not None
    assert found.length >= len(prompt) - 2
    assert room.engine.calls["extend"] - computed == 1
    assert (index.hits, index.hit_tokens) == (1, found.length)


def test_a_shared_beginning_is_copied_into_another_slot_and_stays_where_it_is(room: Room) -> None:
    room.answer(prompt=SYSTEM + "A long question of the first user", ignore_eos_token=True)
    for question in ("Second", "Third"):
        room.answer(prompt=SYSTEM + question, ignore_eos_token=True)
    sources = [(call.slot, call.prefix.slot if call.prefix else None) for call in room.engine.fills]
    assert sources[0] == (0, None)
    assert all(slot != source for slot, source in sources[1:])


def test_slots_are_given_away_least_recently_used_first(make_room: MakeRoom) -> None:
    room = make_room(batch_size=2, max_length=600)
    for prompt in (SYSTEM, "B" * 200, SYSTEM, "C" * 200, SYSTEM):
        room.answer(prompt=prompt, max_new_tokens=2, ignore_eos_token=True)
    slots = [call.slot for call in room.engine.fills]
    assert slots == [0, 1, 0, 1, 0], "the beginning that was of use stays, the one that was not goes"


def test_what_prefixes_saved_is_in_the_log_and_not_more_often_than_once_a_minute(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    for question in ("One", "Two", "Three"):
        room.answer(prompt=SYSTEM + question, max_new_tokens=2, ignore_eos_token=True)
    (line,) = [record.message for record in caplog.records if record.message.startswith("Prefixes: ")]
    found = room.engine.fills[1].prefix
    assert found is not None
    assert line == (
        f"Prefixes: 1 of 2 prompts so far began with what a slot held, {found.length} tokens together"
    )


def test_adapters_share_nothing_with_each_other_and_with_the_base_model(room: Room) -> None:
    room.answer(prompt=SYSTEM)
    room.answer(prompt=SYSTEM, adapter_id="law")
    assert prefix_of_last_fill(room) is None
    room.answer(prompt=SYSTEM, adapter_id="law")
    assert prefix_of_last_fill(room) is not None


def test_the_logprobs_of_a_prompt_need_all_of_it_computed(make_room: MakeRoom) -> None:
    room = make_room(max_length=600, scores_prompts=True)
    room.answer(prompt=SYSTEM)
    (first, *_) = room.answer(prompt=SYSTEM, prompt_logprobs=True)
    assert prefix_of_last_fill(room) is None
    assert first.prompt is not None
    ids = first.prompt.token_ids
    assert first.prompt.logprobs[1:] == [room.engine.logprob_of(token) for token in ids[1:]]


def test_requests_with_one_beginning_that_come_together_compute_it_once(room: Room) -> None:
    requests = [
        request(i, SYSTEM + word, ignore_eos_token=True) for i, word in enumerate(("One", "Two", "Six"))
    ]
    generations = room.run(room.generator.prefill(0, requests))
    assert {generation.request_id for generation in generations} == {0, 1, 2}
    lengths = [call.prefix.length if call.prefix else 0 for call in room.engine.fills]
    assert lengths[0] == 0
    assert min(lengths[1:]) >= 300


def test_a_request_waits_for_a_beginning_only_while_it_is_being_computed(room: Room) -> None:
    room.generator.prefill(0, [request(0, SYSTEM + "One", ignore_eos_token=True)])
    second = room.generator.prefill(1, [request(1, SYSTEM + "Two", ignore_eos_token=True)])
    assert len(room.engine.fills) == 1
    room.generator.clear(0)
    outcome: BatchOutcome = second
    assert len([each for each in room.run(outcome) if each.request_id == 1]) == 5


def test_a_prompt_of_one_token_finds_nothing_and_a_whole_prompt_leaves_its_last_token() -> None:
    index = PrefixIndex(2, 16)
    index.begin(0, [1, 2, 3, 4], BASE, None)
    index.extended(0, 3)
    assert index.find([1], BASE).prefix is None
    assert index.find([1, 2, 3], BASE).prefix == Prefix(0, 2)
    assert index.find([1, 2, 3, 4, 5], BASE).prefix == Prefix(0, 3)
    assert index.find([2, 2, 3], BASE).prefix is None


def test_only_what_was_computed_counts_until_the_rest_is() -> None:
    prompt = list(range(WORTH_WAITING + 10))
    index = PrefixIndex(2, 200)
    index.begin(0, prompt, BASE, None)
    assert index.find(prompt, BASE).prefix is None
    assert index.find(prompt, BASE).more_is_coming
    index.extended(0, 20)
    assert index.find(prompt, BASE).prefix == Prefix(0, 20)
    assert not index.find(prompt, BASE).more_is_coming
    index.released(0)
    assert index.find([*prompt, 1], BASE).prefix == Prefix(0, 20)
