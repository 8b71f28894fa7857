"""When the engine fails: who is forgotten, who goes on, and that no slot is lost."""

from typing import Any, Literal

import pytest

from support.rooms import MakeRoom, Room, request
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.engine.fake import FakeEngine, Program
from text_generation_server.errors import UnknownBatchError

At = Literal["start", "read"]


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    return make_room(batch_size=4)


def endless(request_id: int, max_new_tokens: int = 12) -> GenerationRequest:
    return request(request_id, max_new_tokens=max_new_tokens, ignore_eos_token=True)


def expected_tokens(room: Room) -> list[int]:
    return [generation.token.id for generation in room.answer(max_new_tokens=12, ignore_eos_token=True)]


@pytest.mark.parametrize("at", ["start", "read"])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_failed_prefill_is_forgotten_whole_and_running_rows_go_on(
    room: Room, monkeypatch: pytest.MonkeyPatch, at: At, fails_at: int
) -> None:
    expected = expected_tokens(room)
    running = room.generator.prefill(0, [endless(0)])
    generations = [*running.generations, *room.generator.decode([0]).generations]
    start, calls = FakeEngine.prefill, iter(range(1, 4))

    def failing(engine: FakeEngine, *arguments: Any) -> object:
        if next(calls) == fails_at:
            engine.fail_next("prefill", OSError("out of memory"), at=at)
        return start(engine, *arguments)

    monkeypatch.setattr(FakeEngine, "prefill", failing)
    with pytest.raises(OSError, match="out of memory"):
        room.generator.prefill(1, [endless(1), endless(2), endless(3)])
    assert len(room.engine.live_slots) == 1
    with pytest.raises(UnknownBatchError):
        room.generator.decode([1])
    generations += room.run(room.generator.decode([0]))
    assert [generation.token.id for generation in generations] == expected


@pytest.mark.parametrize("at", ["start", "read"])
def test_a_failed_decode_forgets_its_batch_and_the_next_request_is_served(room: Room, at: At) -> None:
    expected = expected_tokens(room)
    room.generator.prefill(0, [endless(i) for i in range(6)])
    room.generator.decode([0])
    room.engine.fail_next("decode", OSError("device lost"), at=at)
    if at == "read":  # The step that fails was started ahead, and is read by the decode after this one.
        room.generator.decode([0])
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([0])
    assert room.engine.live_slots == frozenset()
    with pytest.raises(UnknownBatchError):
        room.generator.decode([0])
    room.generator.clear(0)
    assert expected_tokens(room) == expected


def test_a_failed_decode_forgets_the_other_batches_that_hold_slots_too(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    room.generator.prefill(1, [endless(1)])
    room.engine.fail_next("decode", OSError("device lost"))
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([0])
    with pytest.raises(UnknownBatchError):
        room.generator.decode([1])
    assert room.engine.live_slots == frozenset()


def test_a_batch_that_only_waits_is_forgotten_if_its_own_decode_fails(make_room: MakeRoom) -> None:
    room = make_room(batch_size=1)
    room.generator.prefill(0, [endless(0)])
    room.generator.prefill(1, [endless(1)])
    room.engine.fail_next("decode", OSError("device lost"))
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([1])
    with pytest.raises(UnknownBatchError):
        room.generator.decode([1])


def test_a_batch_that_only_waits_survives_a_failed_decode_of_another(make_room: MakeRoom) -> None:
    room = make_room(batch_size=1)
    expected = expected_tokens(room)
    room.generator.prefill(0, [endless(0)])
    waiting = room.generator.prefill(1, [endless(1)])
    room.engine.fail_next("decode", OSError("device lost"))
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([0])
    assert [generation.token.id for generation in room.run(waiting)] == expected


@pytest.mark.parametrize("program", ["prefill", "decode"])
def test_a_failure_while_a_waiting_request_is_seated_frees_all_slots(
    make_room: MakeRoom, program: Program
) -> None:
    room = make_room(batch_size=2)
    room.generator.prefill(0, [endless(0, 2), endless(1), endless(2)])
    room.engine.fail_next(program, OSError("device lost"))
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([0])
    assert room.engine.live_slots == frozenset()
    assert len(room.answer(ignore_eos_token=True)) == 5


def test_liveness_reports_a_broken_engine_and_touches_nothing_else(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    calls = dict(room.engine.calls)
    room.generator.liveness()
    assert dict(room.engine.calls) == calls | {"check_health": 1}
    room.engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        room.generator.liveness()
