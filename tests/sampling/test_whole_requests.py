"""Whole requests, several in one batch, get the scores, the choice and the alternatives of the slow reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from sampling.drawn_requests import VOCABULARY, rows, sampling_parameters
from sampling.slow_reference import Asked, Row, best_tokens, gumbel_noise, log_softmax
from text_generation_server.engine.programs.choosing import choose_rows, process_rows
from text_generation_server.engine.state import float_parameters, integer_parameters
from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.processing import History
from text_generation_server.sampling.ranking import rank

ROUNDING = 1e-5
"""What float32 may add or lose; a decision that is nearer than this may go either way."""


def history_of(batch: list[Row]) -> History:
    counts = torch.stack([torch.bincount(torch.tensor(row.ids), minlength=VOCABULARY) for row in batch])
    return History(
        counts=counts.to(torch.int32),
        length=torch.tensor([[len(row.ids)] for row in batch], dtype=torch.int32),
        previous=torch.tensor([[row.ids[-1]] for row in batch], dtype=torch.int32),
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(batch=st.lists(rows(), min_size=1, max_size=6), count=st.integers(1, 20))
def test_a_batch_of_requests_gets_scores_choices_and_alternatives_of_the_slow_reference(
    batch: list[Row], count: int
) -> None:
    expected = [row.outcome() for row in batch]
    assume(all(each.margin > ROUNDING for each in expected))
    asked = [sampling_parameters(row.asked) for row in batch]
    history = history_of(batch)
    logits = torch.tensor(np.stack([row.logits for row in batch]), dtype=torch.float32)
    floats = torch.from_numpy(np.concatenate([float_parameters(each) for each in asked]))
    integers = torch.from_numpy(np.concatenate([integer_parameters(each) for each in asked]))
    processing = max(each.processing for each in asked)

    scores = process_rows(logits, history, floats, integers, WatermarkStrength(), processing)
    tokens, logprobs = choose_rows(scores, history, integers)
    ranked, ranked_logprobs = rank(scores, 20)

    for place, outcome in enumerate(expected):
        ours = scores[place].double().numpy()
        assert np.array_equal(np.isinf(ours), np.isinf(outcome.scores)), batch[place].asked
        np.testing.assert_allclose(ours, outcome.scores, rtol=ROUNDING, atol=ROUNDING)
        assert int(tokens[place]) == outcome.token
        assert float(logprobs[place]) == pytest.approx(outcome.logprob, rel=ROUNDING, abs=1e-4)
        best = best_tokens(ours, count)[:20]
        assert ranked[place, : len(best)].tolist() == best
        normalised = log_softmax(outcome.scores)[best]
        np.testing.assert_allclose(ranked_logprobs[place, : len(best)], normalised, rtol=ROUNDING, atol=1e-4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(row=rows())
def test_a_request_that_is_greedy_needs_no_more_than_the_arg_max(row: Row) -> None:
    asked = sampling_parameters(row.asked)
    if asked.processing is Processing.NONE:
        assert row.outcome().token == int(torch.tensor(row.logits).argmax())
        np.testing.assert_array_equal(row.outcome().scores, row.logits)
    else:
        assert row.asked != Asked(seed=row.asked.seed)


# The reference itself, against those from whom it was written.


@settings(max_examples=150, deadline=None, derandomize=True)
@given(row=rows())
def test_the_slow_reference_agrees_with_transformers_where_nothing_ties(row: Row) -> None:
    """transformers breaks ties in top-p and typical-p by position, and has no frequency penalty and no green list."""
    assume(len(set(row.logits[np.isfinite(row.logits)])) == np.isfinite(row.logits).sum())
    asked = row.asked
    row = Row(
        Asked(
            asked.temperature,
            asked.top_k,
            asked.top_p,
            asked.typical_p,
            repetition_penalty=asked.repetition_penalty,
        ),
        row.ids,
        row.logits,
    )
    expected = row.outcome()
    assume(expected.margin > ROUNDING)
    chain = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(asked.repetition_penalty)])
    chain.append(TemperatureLogitsWarper(asked.temperature))
    if asked.top_k:
        chain.append(TopKLogitsWarper(asked.top_k))
    if asked.top_p < 1:
        chain.append(TopPLogitsWarper(asked.top_p))
    if asked.typical_p < 1:
        chain.append(TypicalLogitsWarper(asked.typical_p))
    theirs = chain(torch.tensor([row.ids]), torch.tensor(row.logits).unsqueeze(0))[0].numpy()
    np.testing.assert_allclose(expected.scores, theirs, rtol=1e-9, atol=1e-9)


def test_the_slow_references_noise_is_gumbel_distributed() -> None:
    noise = np.concatenate([gumbel_noise(seed, 7, 2000) for seed in range(10)])
    assert noise.mean() == pytest.approx(0.5772, abs=0.03)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.05)
