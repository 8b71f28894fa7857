"""Whole requests on the device: programs that were compiled once give drawn batches what the slow reference gives."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sampling.drawn_requests import VOCABULARY, rows, sampling_parameters
from sampling.slow_reference import Outcome, Row
from support.device import compiled, run
from text_generation_server.engine.catalogue import ADMISSIONS
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.programs import choosing, prompts
from text_generation_server.engine.state import BatchShape, float_parameters, integer_parameters
from text_generation_server.runtime.executable import Executable
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.parameters import Processing, WatermarkStrength

ROWS, LENGTH = 4, 64
ROUNDING = 1e-5


SHAPE = BatchShape(ROWS, LENGTH, VOCABULARY, (), CacheLayout.HEADS, "float32")


@dataclass(frozen=True)
class ChoicePrograms:
    """The programs that choose a token, compiled for ROWS slots of LENGTH tokens."""

    step: dict[Processing, Executable]
    admit: dict[Processing, Executable]


@pytest.fixture(scope="module")
def programs_of_choice() -> ChoicePrograms:
    strength = WatermarkStrength()
    return ChoicePrograms(
        {each: compiled(choosing.choose_next(SHAPE, each, strength)) for each in Processing},
        {each: compiled(prompts.admit(SHAPE, each)) for each in ADMISSIONS},
    )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch=st.lists(rows(), min_size=ROWS, max_size=ROWS))
def test_a_step_chooses_for_each_row_what_the_slow_reference_chooses_and_compiles_nothing(
    programs_of_choice: ChoicePrograms, batch: list[Row]
) -> None:
    expected = decided(batch)
    processing = max(sampling_parameters(row.asked).processing for row in batch)
    logits = torch.tensor(np.stack([row.logits for row in batch]), dtype=torch.float32)
    before = compilations()
    results = run(programs_of_choice.step[processing], {**slot_rows(batch), "logits": logits})
    compare(expected, results["chosen"], results["scores"])
    assert compilations() == before


@settings(max_examples=120, deadline=None, derandomize=True)
@given(batch=st.lists(rows(), min_size=ROWS, max_size=ROWS), slot=st.integers(0, ROWS - 1))
def test_a_first_token_is_what_the_slow_reference_chooses_and_compiles_nothing(
    programs_of_choice: ChoicePrograms, batch: list[Row], slot: int
) -> None:
    expected = decided(batch)
    before = compilations()
    # Another request was in the slot before.
    former = slot_rows([*batch[:slot], batch[slot - 1], *batch[slot + 1 :]])
    admitted = run(programs_of_choice.admit[Processing.PENALTIES], {**former, **admission(batch[slot], slot)})
    for name, rows_of in slot_rows(batch).items():
        assert torch.equal(torch.as_tensor(admitted[name]), rows_of), name
    logits = torch.tensor(np.stack([row.logits for row in batch]), dtype=torch.float32)
    results = run(programs_of_choice.step[Processing.EVERYTHING], {**admitted, "logits": logits})
    compare(expected, results["chosen"], results["scores"])
    assert compilations() == before


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


def slot_rows(batch: list[Row]) -> dict[str, Tensor]:
    """Slots in the middle of these requests."""
    asked = [sampling_parameters(row.asked) for row in batch]
    counts = [torch.bincount(torch.tensor(row.ids), minlength=VOCABULARY) for row in batch]
    return {
        "tokens": torch.tensor([row.ids[-1] for row in batch], dtype=torch.int32),
        "positions": torch.tensor([len(row.ids) - 1 for row in batch], dtype=torch.int32),
        "floats": torch.from_numpy(np.concatenate([float_parameters(each) for each in asked])),
        "integers": torch.from_numpy(np.concatenate([integer_parameters(each) for each in asked])),
        "counts": torch.stack(counts).to(torch.int32),
    }


def admission(row: Row, slot: int) -> dict[str, Tensor]:
    """The inputs of `prompts.admit` for a request with this prompt."""
    asked = sampling_parameters(row.asked)
    counts = torch.bincount(torch.tensor(row.ids), minlength=VOCABULARY).to(torch.int32)
    return {
        "slot": torch.tensor([slot], dtype=torch.int32),
        "token": torch.tensor([row.ids[-1]], dtype=torch.int32),
        "position": torch.tensor([len(row.ids) - 1], dtype=torch.int32),
        "new_floats": torch.from_numpy(float_parameters(asked)),
        "new_integers": torch.from_numpy(integer_parameters(asked)),
        "new_counts": counts.unsqueeze(0),
    }
