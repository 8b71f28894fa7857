"""A compiled program computes what its function computes, in the buffers that it was given."""

from pathlib import Path

import pytest
import torch
import torch_xla
from torch import Tensor

from engine.checkpoints import save
from text_generation_server.engine.programs import Program
from text_generation_server.lowering import measurement
from text_generation_server.lowering.compiled import CompiledProgram
from text_generation_server.lowering.export import export
from text_generation_server.model.checkpoint import load_config, load_model
from text_generation_server.model.load import place_on_device


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(torch_xla.device()) for tensor in tensors]


def write_and_sum(arguments: list[Tensor]) -> list[Tensor]:
    """A cache of [4, 8], a position, and a tensor that is passed through."""
    cache, position, untouched = arguments
    written = cache.index_put(
        (torch.arange(4, dtype=torch.int32, device=cache.device), position), position.to(torch.float32) + 1.0
    )
    return [written, position + 1, untouched, written.sum()]


def arguments() -> list[Tensor]:
    return on_device(torch.zeros(4, 8), torch.zeros(4, dtype=torch.int32), torch.ones(3))


def test_many_runs_equal_the_function_in_plain_torch() -> None:
    state = arguments()
    program = CompiledProgram(Program(write_and_sum, state, donated=3))
    expected = [torch.zeros(4, 8), torch.zeros(4, dtype=torch.int32), torch.ones(3)]
    for _ in range(6):
        *state, total = program.run(state)
        *expected, expected_total = write_and_sum(expected)
        assert float(total.cpu()) == float(expected_total)
    assert torch.equal(state[0].cpu(), expected[0])


def test_runs_compile_nothing() -> None:
    state = arguments()
    program = CompiledProgram(Program(write_and_sum, state, donated=3))
    compiled = measurement.compilations()
    for _ in range(3):
        *state, _total = program.run(state)
    assert measurement.compilations() == compiled


def test_a_donated_buffer_is_given_away_and_others_stay() -> None:
    state = arguments()
    cache, position, untouched = state
    program = CompiledProgram(Program(write_and_sum, state, donated=1))
    program.run(state)[3].cpu()
    assert "Deleted" in torch_xla._XLAC._get_xla_tensor_debug_info(cache)
    assert position.cpu().tolist() == [0, 0, 0, 0]
    assert untouched.cpu().tolist() == [1, 1, 1]


def test_an_argument_that_is_returned_unchanged_is_passed_through() -> None:
    state = arguments()
    program = CompiledProgram(Program(write_and_sum, state, donated=3))
    assert program.run(state)[2] is state[2]


@pytest.mark.falls_back
def test_a_function_that_needs_a_value_cannot_be_traced() -> None:
    def reads_back(arguments: list[Tensor]) -> list[Tensor]:
        return [arguments[0] * float(arguments[1].sum())]

    with pytest.raises(RuntimeError, match="Unexpected execution"):
        CompiledProgram(Program(reads_back, arguments()[:2], donated=0))


def test_each_cache_tensor_is_its_own_successor(tmp_path: Path) -> None:
    directory = save("llama", tmp_path)
    engine = place_on_device(load_model(directory, load_config(directory), 64, torch.float32), batch_size=2)
    for key in engine.program_keys():
        program = engine.program(key)
        aliases = export(program).aliases
        # XLA pairs donors and outputs of one size in order, so parameters must come in the order of the outputs.
        caches = [(parameter, output) for parameter, output in aliases if key.kind in ("prefill", "forward")]
        assert caches == sorted(caches), key
        if caches:
            assert [output for _, output in caches] == [0, 1, 2, 3]
