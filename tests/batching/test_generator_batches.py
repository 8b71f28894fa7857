"""Batches: parking, merging, filtering, clearing, and ids that come back."""

import time

import pytest

from support.rooms import MakeRoom, Room, request
from text_generation_server.batching.requests import BatchOutcome, CachedBatch, Generation, GenerationRequest
from text_generation_server.engine.fake import FakePendingOutput
from text_generation_server.errors import InvalidRequestError, UnknownBatchError

MAX_LENGTH = 64


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    return make_room(batch_size=2, max_length=MAX_LENGTH)


def endless(request_id: int, max_new_tokens: int = 40) -> GenerationRequest:
    return request(request_id, max_new_tokens=max_new_tokens, ignore_eos_token=True)


def ids(outcome: BatchOutcome) -> list[int]:
    return [generation.request_id for generation in outcome.generations]


def tokens_of(generations: list[Generation], request_id: int) -> list[int]:
    return [token.id for each in generations if each.request_id == request_id for token in each.tokens]


def test_a_prefill_answers_at_once_while_others_run_and_its_tokens_come_with_the_next_decode(
    room: Room,
) -> None:
    room.generator.prefill(0, [endless(0)])
    reads = room.engine.calls["read"]
    outcome = room.generator.prefill(1, [endless(1)])
    assert ids(outcome) == []
    assert outcome.batch == CachedBatch(1, [1], MAX_LENGTH)
    assert room.engine.calls["read"] == reads
    later = [room.generator.decode([0, 1]), room.generator.decode([0]), room.generator.decode([0])]
    assert 1 in {generation.request_id for each in later for generation in each.generations}


def test_a_request_that_finishes_with_its_first_token_is_complete_in_the_prefill(room: Room) -> None:
    outcome = room.generator.prefill(0, [endless(0, max_new_tokens=1), endless(1)])
    assert outcome.generations[0].finished is not None
    assert outcome.batch == CachedBatch(0, [1], MAX_LENGTH)
    assert len(room.engine.live_slots) == 1


def test_a_prefill_whose_requests_all_finish_leaves_no_batch(room: Room) -> None:
    outcome = room.generator.prefill(0, [endless(0, max_new_tokens=1)])
    assert outcome.batch is None
    with pytest.raises(UnknownBatchError):
        room.generator.decode([0])


def test_short_prompts_that_arrive_together_share_one_piece(make_room: MakeRoom) -> None:
    room = make_room(batch_size=3)
    room.generator.prefill(0, [request(i, prompt) for i, prompt in enumerate(("One", "Two", "Three"))])
    assert room.engine.timeline[0] == "extend 0,1,2"
    assert room.engine.calls["extend"] == 1


def test_requests_beyond_the_slots_wait_and_are_served_in_order_of_arrival(room: Room) -> None:
    first = room.generator.prefill(0, [endless(0, 2), endless(1, 4), endless(2, 3), endless(3, 2)])
    assert ids(first) == [0, 1]
    assert first.batch == CachedBatch(0, [0, 1, 2, 3], 2 * MAX_LENGTH)
    begun = len(room.engine.timeline)
    second = room.generator.decode([0])
    assert ids(second) == [0, 1]
    assert room.engine.timeline[begun:] == ["read 2", "start 4", "choose 4"]
    assert room.engine.fills[-1].slot == 0, (
        "request 0 ended, so its slot goes to request 2 before the next step"
    )
    assert second.batch == CachedBatch(0, [1, 2, 3], 2 * MAX_LENGTH)
    generations = [*first.generations, *second.generations, *room.run(room.generator.decode([0]))]
    assert {i: len(tokens_of(generations, i)) for i in range(4)} == {0: 2, 1: 4, 2: 3, 3: 2}
    order = list(dict.fromkeys(each.request_id for each in generations))
    assert order == [0, 1, 2, 3]


def test_a_batch_that_only_waits_is_served_once_a_slot_is_free(room: Room) -> None:
    room.generator.prefill(0, [endless(0), endless(1)])
    outcome = room.generator.prefill(1, [endless(2)])
    assert outcome.generations == []
    assert outcome.batch == CachedBatch(1, [2], MAX_LENGTH)
    blocked = room.generator.decode([1])
    assert (blocked.generations, blocked.batch) == ([], outcome.batch)
    room.generator.clear(0)
    assert ids(room.generator.decode([1])) == [2]


def test_a_new_request_does_not_overtake_one_that_waits(room: Room) -> None:
    room.generator.prefill(0, [endless(0), endless(1), endless(2)])
    room.generator.filter(0, [1, 2])
    assert ids(room.generator.prefill(1, [endless(3)])) == []
    outcome = room.generator.decode([0, 1])
    assert outcome.batch is not None
    later = [each.request_id for each in room.run(outcome)]
    assert later.index(2) < later.index(3)


def test_a_waiting_request_can_be_dropped(room: Room) -> None:
    room.generator.prefill(0, [endless(0), endless(1), endless(2), endless(3)])
    assert room.generator.filter(0, [0, 1, 3]) == CachedBatch(0, [0, 1, 3], 2 * MAX_LENGTH)
    room.generator.filter(0, [3])
    assert ids(room.generator.decode([0])) == [3]


def test_a_decode_of_several_batches_merges_them_under_the_first_id(room: Room) -> None:
    room.generator.prefill(4, [endless(0)])
    room.generator.prefill(7, [endless(1)])
    outcome = room.generator.decode([7, 4])
    assert outcome.batch == CachedBatch(7, [1, 0], 2 * MAX_LENGTH)
    assert ids(outcome) == [0], "request 1 joined after the step that was read was started"
    assert ids(room.generator.decode([7])) == [0]
    assert ids(room.generator.decode([7])) == [1, 0]
    with pytest.raises(UnknownBatchError, match="Batch ID 4 not found in cache"):
        room.generator.decode([4])


def test_a_decode_of_an_unknown_batch_changes_nothing(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.prefill(1, [endless(1)])
    calls = dict(room.engine.calls)
    with pytest.raises(UnknownBatchError):
        room.generator.decode([0, 1, 9])
    assert dict(room.engine.calls) == calls
    assert room.generator.decode([0]).batch == CachedBatch(0, [0], MAX_LENGTH)
    assert room.generator.decode([1]).batch == CachedBatch(1, [1], MAX_LENGTH)


def test_a_decode_of_no_batch_is_refused(room: Room) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1 batch"):
        room.generator.decode([])


def test_a_batch_named_twice_is_decoded_once(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    assert ids(room.generator.decode([0, 0])) == [0]


def test_a_filter_keeps_the_order_and_frees_the_slots_of_the_others(make_room: MakeRoom) -> None:
    room = make_room(batch_size=3, max_length=MAX_LENGTH)
    room.generator.prefill(0, [endless(0), endless(1), endless(2)])
    assert room.generator.filter(0, [0, 2]) == CachedBatch(0, [0, 2], 2 * MAX_LENGTH)
    assert room.engine.live_slots == {0, 2}
    assert ids(room.generator.decode([0])) == [0, 2]


def test_a_filter_that_keeps_nothing_leaves_no_batch(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    assert room.generator.filter(0, []) is None
    assert room.engine.live_slots == frozenset()
    with pytest.raises(UnknownBatchError):
        room.generator.filter(0, [0])


def test_a_cleared_batch_is_gone_and_clearing_it_again_is_no_error(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.prefill(1, [endless(1)])
    room.generator.clear(0)
    room.generator.clear(0)
    assert ids(room.generator.decode([1])) == [1]
    room.generator.clear(None)
    assert room.engine.live_slots == frozenset()
    with pytest.raises(UnknownBatchError):
        room.generator.decode([1])


def test_a_batch_id_that_is_used_again_replaces_the_batch(room: Room) -> None:
    alone = tokens_of(room.run(room.generator.prefill(0, [endless(0, 6)])), 0)
    room.generator.prefill(0, [endless(0), endless(1)])
    room.generator.decode([0])
    again = room.generator.prefill(0, [endless(0, 6)])
    assert again.batch == CachedBatch(0, [0], MAX_LENGTH)
    assert len(room.engine.live_slots) == 1
    assert tokens_of(room.run(again), 0) == alone


def test_a_request_id_that_is_used_again_replaces_the_request(room: Room) -> None:
    room.generator.prefill(0, [endless(0), endless(1)])
    room.generator.prefill(1, [endless(1)])
    merged = room.generator.decode([0, 1])
    assert merged.batch == CachedBatch(0, [0, 1], 2 * MAX_LENGTH)


def test_request_ids_must_differ_within_a_prefill(room: Room) -> None:
    with pytest.raises(InvalidRequestError, match=r"ids that differ. Given: \[3, 3\]"):
        room.generator.prefill(0, [endless(3), endless(3)])


def test_a_prefill_without_requests_is_refused(room: Room) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1 request"):
        room.generator.prefill(0, [])


def test_tokens_of_a_batch_that_a_decode_leaves_out_are_kept_for_it(room: Room) -> None:
    alone = tokens_of(room.answer(max_new_tokens=20, ignore_eos_token=True), 0)
    one = room.generator.prefill(1, [endless(1, 20)])
    two = room.generator.prefill(2, [endless(2, 20)])
    first = room.run(one)
    assert tokens_of(first, 1) == alone
    assert tokens_of(room.run(two), 2) == alone
    assert room.engine.live_slots == frozenset()


def test_two_steps_are_in_flight_while_text_is_made_and_none_for_a_request_that_is_known_to_end(
    room: Room,
) -> None:
    outcome = room.generator.prefill(0, [endless(0, 5)])
    assert room.engine.timeline == [
        "extend 0",
        *("start 1", "choose 1", "start 2", "choose 2"),
        *("read extend 0", "read 1", "start 3", "choose 3"),
    ]
    started = []
    while outcome.batch is not None:
        outcome = room.generator.decode([0])
        started.append((room.engine.calls["decode"], room.engine.calls["read"] - 1))
    assert started == [(4, 2), (5, 3), (5, 4), (5, 5)]


def test_each_step_but_the_last_is_followed_by_another_before_it_is_read(room: Room) -> None:
    room.run(room.generator.prefill(0, [endless(0, 20), endless(1, 12)]))
    order = {event: index for index, event in enumerate(room.engine.timeline)}
    assert room.engine.calls["decode"] == 20
    for number in range(1, 19):
        assert order[f"choose {number + 1}"] < order[f"read {number}"]


def kinds(timeline: list[str]) -> list[str]:
    """Pieces, and steps that were started, in order."""
    return [event.split()[0] for event in timeline if event.startswith(("extend", "start"))]


def test_short_prompts_that_come_together_are_complete_before_the_first_step(make_room: MakeRoom) -> None:
    room = make_room(batch_size=8, max_length=128)
    outcome = room.generator.prefill(0, [request(slot, chr(97 + slot) * 60, 3) for slot in range(8)])
    assert ids(outcome) == list(range(8))
    started = kinds(room.engine.timeline)
    assert started.count("extend") > 4
    assert started == ["extend"] * started.count("extend") + ["start"] * started.count("start")


def test_a_short_prompt_does_not_wait_for_a_long_one_that_comes_with_it(make_room: MakeRoom) -> None:
    room = make_room(batch_size=2, max_length=2000)
    room.generator.prefill(0, [request(0, "Hello", 3), request(1, "a b" * 600, 3)])
    assert kinds(room.engine.timeline)[:3] == ["extend", "start", "extend"]


def test_a_newcomer_is_seated_before_the_next_step_starts(room: Room) -> None:
    room.generator.prefill(0, [endless(0, 10)])
    room.generator.decode([0])
    begun = len(room.engine.timeline)
    room.generator.prefill(1, [request(1, "Another prompt", 10)])
    assert room.engine.timeline[begun:] == []
    room.generator.decode([0, 1])
    assert room.engine.timeline[begun:] == ["read 3", "extend 1", "start 5", "choose 5"]


def test_a_steady_decode_starts_and_reads_one_program(room: Room) -> None:
    room.generator.prefill(0, [endless(0), endless(1)])
    room.generator.decode([0])
    before = dict(room.engine.calls)
    for _ in range(10):
        assert ids(room.generator.decode([0])) == [0, 1]
    assert room.engine.calls["decode"] - before["decode"] == 10
    assert room.engine.calls["read"] - before["read"] == 10
    assert room.engine.calls["extend"] - before["extend"] == 0


def test_a_running_request_is_not_prefilled_again_when_others_come_and_go(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    for batch_id in range(1, 6):
        room.generator.prefill(batch_id, [endless(batch_id)])
        room.generator.decode([0, batch_id])
        room.generator.filter(0, [0])
    assert len(room.engine.fills) == 6


def test_a_step_that_holds_nothing_for_the_new_batch_is_followed_by_one_that_does(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.decode([0])  # Leaves a step running that knows request 0 only.
    room.generator.clear(0)
    room.generator.prefill(1, [endless(1)])
    reads = room.engine.calls["read"]
    assert ids(room.generator.decode([1])) == [1]
    assert room.engine.calls["read"] == reads + 1, "nobody waited for the step that concerned nobody"


def test_a_decode_of_a_new_batch_alone_makes_progress_while_a_step_of_another_batch_runs(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.decode([0])  # Leaves a step running that knows request 0 only.
    room.generator.prefill(1, [endless(1)])
    assert ids(room.generator.decode([1])) == [1]


def test_a_batch_that_was_left_out_does_not_hold_up_the_others_when_it_is_back(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.prefill(1, [endless(1)])
    for _ in range(5):
        room.generator.decode([0])
    assert ids(room.generator.decode([0, 1])) == [0, 1]
    for _ in range(5):
        assert ids(room.generator.decode([0])) == [0, 1]


def test_a_request_of_a_left_out_batch_that_meets_its_stop_sequence_gives_its_slot_back(
    make_room: MakeRoom,
) -> None:
    room = make_room(batch_size=2, max_length=MAX_LENGTH, next_token=lambda history: ord("a") - ord("!") + 2)
    stopped = room.generator.prefill(1, [request(1, max_new_tokens=20, stop_sequences=("aaa",))])
    room.generator.prefill(0, [endless(0, 20)])
    for _ in range(6):
        room.generator.decode([0])
    assert room.engine.live_slots == {1}
    assert "".join(generation.tokens[0].text for generation in room.run(stopped)) == "aaa"


def test_a_request_that_joins_while_a_step_runs_misses_no_token(make_room: MakeRoom) -> None:
    room = make_room(batch_size=2, max_length=MAX_LENGTH)
    alone = tokens_of(room.answer(max_new_tokens=20, ignore_eos_token=True), 0)
    old = room.generator.prefill(0, [endless(0, 20)])
    generations = [*old.generations, *room.generator.decode([0]).generations]
    new = room.generator.prefill(1, [endless(1, 20)])
    generations += [*new.generations, *room.run(room.generator.decode([0, 1]))]
    assert tokens_of(generations, 0) == alone
    assert tokens_of(generations, 1) == alone


def test_the_time_of_the_device_and_of_the_host_make_up_the_whole(room: Room) -> None:
    outcome = room.generator.prefill(0, [endless(0)])
    for timings in (outcome.timings, room.generator.decode([0]).timings):
        assert timings.forward_ns > 0
        assert timings.decode_ns > 0
        assert timings.forward_ns + timings.decode_ns == timings.total_ns


def test_waiting_for_the_device_is_forward_time(make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    room = make_room()
    room.generator.prefill(0, [endless(0)])
    read = FakePendingOutput.read

    def slow(pending: FakePendingOutput) -> object:
        time.sleep(0.02)
        return read(pending)

    monkeypatch.setattr(FakePendingOutput, "read", slow)
    timings = room.generator.decode([0]).timings
    assert timings.forward_ns >= 20_000_000 > timings.decode_ns


def test_several_tokens_of_a_step_come_in_one_generation_and_end_where_they_must(make_room: MakeRoom) -> None:
    alone = tokens_of(make_room().answer(max_new_tokens=8, ignore_eos_token=True), 0)
    room = make_room(tokens_per_step=3)
    outcome = room.generator.prefill(0, [endless(0, 8)])
    counts = [len(outcome.generations[0].tokens)]
    received = list(outcome.generations)
    while outcome.batch is not None:
        outcome = room.generator.decode([0])
        received += outcome.generations
        counts.append(len(outcome.generations[0].tokens))
    assert counts == [3, 3, 2]
    assert tokens_of(received, 0) == alone
    assert received[-1].finished is not None
    assert received[-1].finished.generated_tokens == 8
