"""Whole requests on the device: programs that were compiled once give drawn batches what the slow reference gives."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch_xla
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sampling.drawn_requests import VOCABULARY, rows, sampling_parameters
from sampling.slow_reference import Asked, Outcome, Row
from text_generation_server.engine import programs
from text_generation_server.engine.state import SlotRows, float_parameters, integer_parameters
from text_generation_server.lowering import measurement
from text_generation_server.lowering.compiled import CompiledProgram
from text_generation_server.sampling.parameters import Processing, WatermarkStrength

ROWS, LENGTH = 4, 64
ROUNDING = 1e-5


@dataclass(frozen=True)
class ChoicePrograms:
    """The programs that choose a token, compiled for ROWS slots of LENGTH tokens."""

    step: dict[Processing, CompiledProgram]
    admit: CompiledProgram


@pytest.fixture(scope="module")
def compiled() -> ChoicePrograms:
    strength = WatermarkStrength()
    neutral = Row(Asked(), [0], np.zeros(VOCABULARY))
    slots, logits = slot_rows([neutral] * ROWS), on_device(torch.zeros(ROWS, VOCABULARY))
    return ChoicePrograms(
        {
            processing: CompiledProgram(programs.choose_next(slots, logits, LENGTH, processing, strength))
            for processing in Processing
        },
        CompiledProgram(programs.admit(slots, admission(neutral, 0), strength)),
    )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch=st.lists(rows(), min_size=ROWS, max_size=ROWS))
def test_a_step_chooses_for_each_row_what_the_slow_reference_chooses_and_compiles_nothing(
    compiled: ChoicePrograms, batch: list[Row]
) -> None:
    expected = decided(batch)
    processing = max(sampling_parameters(row.asked).processing for row in batch)
    logits = on_device(torch.tensor(np.stack([row.logits for row in batch]), dtype=torch.float32))
    slots = slot_rows(batch)
    compilations = measurement.compilations()
    *_, packed, scores = compiled.step[processing].run([*slots.flatten(), logits])
    compare(expected, packed.cpu(), scores.cpu())
    assert measurement.compilations() == compilations


@settings(max_examples=120, deadline=None, derandomize=True)
@given(row=rows(), slot=st.integers(0, ROWS - 1))
def test_a_first_token_is_what_the_slow_reference_chooses_and_compiles_nothing(
    compiled: ChoicePrograms, row: Row, slot: int
) -> None:
    expected = decided([row])
    slots = slot_rows([row] * ROWS)
    compilations = measurement.compilations()
    *_, packed, scores = compiled.admit.run([*slots.flatten(), *admission(row, slot)])
    compare(expected, packed.cpu(), scores.cpu())
    assert measurement.compilations() == compilations


def decided(batch: list[Row]) -> list[Outcome]:
    """The reference's answers, unless one of them hangs on the rounding of float32."""
    expected = [row.outcome() for row in batch]
    assume(all(outcome.margin > ROUNDING for outcome in expected))
    return expected


def compare(expected: list[Outcome], packed: Tensor, scores: Tensor) -> None:
    for place, outcome in enumerate(expected):
        ours = scores[place].double().numpy()
        assert np.array_equal(np.isinf(ours), np.isinf(outcome.scores))
        np.testing.assert_allclose(ours, outcome.scores, rtol=ROUNDING, atol=ROUNDING)
        token, logprob = packed[place].tolist()
        assert int(token) == outcome.token
        assert logprob == pytest.approx(outcome.logprob, rel=ROUNDING, abs=1e-4)


def slot_rows(batch: list[Row]) -> SlotRows:
    """Slots in the middle of these requests."""
    asked = [sampling_parameters(row.asked) for row in batch]
    counts = [torch.bincount(torch.tensor(row.ids), minlength=VOCABULARY) for row in batch]
    return SlotRows(
        tokens=on_device(torch.tensor([row.ids[-1] for row in batch], dtype=torch.int32)),
        positions=on_device(torch.tensor([len(row.ids) - 1 for row in batch], dtype=torch.int32)),
        floats=on_device(torch.stack([float_parameters(each) for each in asked])),
        integers=on_device(torch.stack([integer_parameters(each) for each in asked])),
        counts=on_device(torch.stack(counts).to(torch.int32)),
    )


def admission(row: Row, slot: int) -> list[Tensor]:
    """The inputs of `programs.admit` for a request with this prompt."""
    ids = torch.zeros((1, LENGTH), dtype=torch.int32)
    ids[0, : len(row.ids)] = torch.tensor(row.ids)
    asked = sampling_parameters(row.asked)
    return [
        on_device(torch.tensor(row.logits, dtype=torch.float32).unsqueeze(0)),
        on_device(ids),
        on_device(torch.tensor([slot, len(row.ids)], dtype=torch.int32)),
        on_device(float_parameters(asked)),
        on_device(integer_parameters(asked)),
    ]


def on_device(tensor: Tensor) -> Tensor:
    return tensor.to(torch_xla.device())
