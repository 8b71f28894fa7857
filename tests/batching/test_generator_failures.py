"""When the engine fails its error is raised: the process is to end then."""

from typing import Literal

import pytest

from support.rooms import MakeRoom, request
from text_generation_server.engine.fake import Program


@pytest.mark.parametrize("at", ["start", "read"])
@pytest.mark.parametrize("program", ["extend", "decode"])
def test_an_error_of_the_engine_is_raised_as_it_is(
    make_room: MakeRoom, program: Program, at: Literal["start", "read"]
) -> None:
    room = make_room()
    room.engine.fail_next(program, OSError("device lost"), at=at)
    with pytest.raises(OSError, match="device lost"):
        room.run(room.generator.prefill(0, [request(0, max_new_tokens=12, ignore_eos_token=True)]))
