"""When the engine fails, its error reaches the caller as it is: the process ends, and no answer is made up."""

from typing import Literal

import pytest

from generator.conftest import MakeRoom, Room, request
from text_generation_server.batching.requests import GenerationRequest

At = Literal["start", "read"]


@pytest.fixture
def room(make_room: MakeRoom) -> Room:
    return make_room(batch_size=4)


def endless(request_id: int, max_new_tokens: int = 12) -> GenerationRequest:
    return request(request_id, max_new_tokens=max_new_tokens, ignore_eos_token=True)


@pytest.mark.parametrize("at", ["start", "read"])
def test_the_error_of_a_prefill_is_raised(room: Room, at: At) -> None:
    room.engine.fail_next("prefill", OSError("out of memory"), at=at)
    with pytest.raises(OSError, match="out of memory"):
        room.generator.prefill(1, [endless(1), endless(2)])


@pytest.mark.parametrize("at", ["start", "read"])
def test_the_error_of_a_step_is_raised_by_the_decode_that_meets_it(room: Room, at: At) -> None:
    room.generator.prefill(0, [endless(0)])
    room.engine.fail_next("decode", OSError("device lost"), at=at)
    with pytest.raises(OSError, match="device lost"):
        room.generator.decode([0])


def test_liveness_reports_a_broken_engine_and_touches_nothing_else(room: Room) -> None:
    room.generator.prefill(0, [endless(0)])
    calls = dict(room.engine.calls)
    room.generator.liveness()
    assert dict(room.engine.calls) == calls | {"check_health": 1}
    room.engine.break_down("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        room.generator.liveness()
