"""A compiled program computes what its function computes, in the buffers that it was given."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from support.device import compiled, mesh
from text_generation_server.engine.program import STATE, Program, Spec
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.lowering import recording
from text_generation_server.runtime.executable import Executable
from text_generation_server.runtime.mesh import Buffer, compilations

CACHE, POSITION = Spec((4, 8), "float32", STATE), Spec((4,), "int32", STATE)


def write_and_sum(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A cache of [4, 8], another that is swapped with nothing, and a position."""
    cache, other, position = given["cache"], given["other"], given["position"]
    rows = torch.arange(4, dtype=torch.int32, device=cache.device)
    written = cache.index_put((rows, position), position.to(torch.float32) + 1.0)
    # The results come in another order than the arguments, and two have one shape.
    return {"other": other + 1.0, "cache": written, "position": position + 1, "total": written.sum()}


def program() -> Program:
    return Program("test", write_and_sum, {"cache": CACHE, "other": CACHE, "position": POSITION})


@pytest.fixture(scope="module")
def executable() -> Executable:
    return compiled(program())


def state() -> dict[str, Buffer]:
    arrays = {
        "cache": np.zeros((4, 8), np.float32),
        "other": np.full((4, 8), 50, np.float32),
        "position": np.zeros(4, np.int32),
    }
    return {name: mesh().send(array) for name, array in arrays.items()}


def test_many_runs_equal_the_function_in_plain_torch_and_compile_nothing(executable: Executable) -> None:
    ours = state()
    expected = {name: torch.from_numpy(np.asarray(buffer).copy()) for name, buffer in ours.items()}
    before = compilations()
    for _ in range(6):
        results = executable.run(ours, {})
        total = float(np.asarray(results.pop("total")))
        ours = results
        expected = write_and_sum(expected)
        assert total == float(expected.pop("total"))
    for name, tensor in expected.items():
        assert np.array_equal(np.asarray(ours[name]), tensor.numpy()), name
    assert compilations() == before


def test_each_donor_is_succeeded_by_the_result_of_its_name_in_its_own_buffer(executable: Executable) -> None:
    # Arrays that came from the host may be numpy's own memory, which no program may write to.
    ours = executable.run(state(), {})
    del ours["total"]
    places = {name: buffer.unsafe_buffer_pointer() for name, buffer in ours.items()}
    results = executable.run(ours, {})
    assert {name: results[name].unsafe_buffer_pointer() for name in places} == places
    assert all(buffer.is_deleted() for buffer in ours.values())


def test_a_program_survives_being_kept_in_a_file(executable: Executable) -> None:
    again = Executable.from_bytes(executable.to_bytes(), mesh())
    again.bind({})
    before = compilations()
    one, other = executable.run(state(), {}), again.run(state(), {})
    for name, buffer in one.items():
        assert np.array_equal(np.asarray(buffer), np.asarray(other[name])), name
    assert again.memory == executable.memory
    assert compilations() == before


def test_a_successor_of_another_shape_is_a_defect_that_is_named() -> None:
    def grows(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"position": torch.cat([given["position"], given["position"]])}

    with pytest.raises(
        RuntimeError, match=r"position has the shape \(4,\) int32, and its successor \(8,\) int32"
    ):
        compiled(Program("test", grows, {"position": POSITION}))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.bincount(x), "no lowering of the operation aten::bincount"),
        (lambda x: x * float(x.sum()), "reads a value back"),
    ],
    ids=["operation", "value"],
)
def test_what_cannot_be_recorded_is_refused_by_its_name(function: object, message: str) -> None:
    def named(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"result": function(given["position"])}  # type: ignore[operator]

    with pytest.raises(UnsupportedModelError, match=message):
        compiled(Program("test", named, {"position": POSITION}))
    # Nothing of it is left behind: the next program is recorded.
    recording.record(program(), recording.Placeholders(), exact_float32=False)
