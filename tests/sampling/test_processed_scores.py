"""Processed scores equal those of transformers' logits processors, row by row, whatever the other rows ask for."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from text_generation_server.engine.programs.choosing import choose_rows, process_rows
from text_generation_server.engine.state import float_parameters, integer_parameters
from text_generation_server.sampling.parameters import Processing, SamplingParameters, WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.ranking import rank
from text_generation_server.sampling.watermark import green

VOCABULARY = 1000

parameters = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([1.0, 0.2, 0.7, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 10, 100, 5000]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.99]),
    typical_p=st.sampled_from([1.0, 0.1, 0.5, 0.95]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.2, 2.0]),
    frequency_penalty=st.sampled_from([0.0, -2.0, 0.5, 2.0]),
)


class FrequencyPenalty(LogitsProcessor):
    """TGI's relative frequency penalty for a request that runs alone; transformers has none."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        frequency = torch.bincount(input_ids[0], minlength=scores.shape[1]) / input_ids.shape[1]
        return scores - self.penalty * frequency


def reference(asked: SamplingParameters, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """transformers' processors in TGI's order."""
    chain = LogitsProcessorList()
    if asked.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(asked.repetition_penalty))
    if asked.frequency_penalty != 0.0:
        chain.append(FrequencyPenalty(asked.frequency_penalty))
    if asked.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(asked.temperature))
    if asked.top_k:
        chain.append(TopKLogitsWarper(asked.top_k))
    if asked.top_p < 1.0:
        chain.append(TopPLogitsWarper(asked.top_p))
    if asked.typical_p < 1.0:
        chain.append(TypicalLogitsWarper(asked.typical_p))
    scores: torch.Tensor = chain(ids.unsqueeze(0), logits.unsqueeze(0).clone())
    return scores[0]


def tensors(rows: list[SamplingParameters]) -> ProcessingTensors:
    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=dtype).unsqueeze(1)

    names = ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty")
    return ProcessingTensors(
        top_k=column("top_k", torch.int32),
        watermark=column("watermark", torch.bool),
        **{name: column(name, torch.float32) for name in names},
    )


def history_of(ids: list[torch.Tensor]) -> History:
    return History(
        counts=torch.stack([torch.bincount(row, minlength=VOCABULARY) for row in ids]).to(torch.int32),
        length=torch.tensor([[len(row)] for row in ids], dtype=torch.int32),
        previous=torch.stack([row[-1:] for row in ids]).to(torch.int32),
    )


def ours(
    rows: list[SamplingParameters],
    ids: list[torch.Tensor],
    logits: torch.Tensor,
    processing: Processing = Processing.EVERYTHING,
) -> torch.Tensor:
    return process(logits, history_of(ids), tensors(rows), WatermarkStrength(), processing)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(parameters, min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1.0, 4.0]),
)
def test_processed_scores_equal_those_of_transformers(
    rows: list[SamplingParameters], seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(rows), VOCABULARY, generator=generator) * scale
    ids = [torch.randint(0, VOCABULARY, (1 + 30 * row,), generator=generator) for row in range(len(rows))]
    processed = ours(rows, ids, logits)
    for row, asked in enumerate(rows):
        expected = reference(asked, ids[row], logits[row])
        assert torch.equal(processed[row].isinf(), expected.isinf()), asked
        torch.testing.assert_close(processed[row], expected, rtol=1e-5, atol=1e-5)


def test_neutral_parameters_leave_the_scores_exactly_as_they_were() -> None:
    logits = torch.randn(3, VOCABULARY)
    ids = [torch.randint(0, VOCABULARY, (7,)) for _ in range(3)]
    assert torch.equal(ours([SamplingParameters()] * 3, ids, logits), logits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(asked=parameters, seed=st.integers(0, 2**32))
def test_the_least_processing_that_a_request_needs_gives_what_all_of_it_gives(
    asked: SamplingParameters, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, VOCABULARY, generator=generator) * 3
    ids = [torch.randint(0, VOCABULARY, (9,), generator=generator)]
    assert torch.equal(ours([asked], ids, logits, asked.processing), ours([asked], ids, logits))


def test_a_watermark_adds_delta_to_the_green_tokens_before_all_else() -> None:
    logits = torch.randn(2, VOCABULARY)
    ids = [torch.tensor([5, 9]), torch.tensor([5, 9])]
    marked, plain = ours([SamplingParameters(watermark=True), SamplingParameters()], ids, logits)
    bonus = green(torch.tensor([[9]], dtype=torch.int32), VOCABULARY, 0.5)[0]
    torch.testing.assert_close(marked, torch.where(bonus, logits[0] + 2.0, logits[0]))
    assert torch.equal(plain, logits[1])


def test_the_green_list_has_its_share_of_the_vocabulary_and_changes_with_the_token_before() -> None:
    previous = torch.arange(200, dtype=torch.int32).unsqueeze(1)
    for gamma in (0.25, 0.5):
        lists = green(previous, 5000, gamma)
        assert abs(float(lists.float().mean()) - gamma) < 0.005
        # Two lists agree by chance only.
        agreement = (lists[1:] == lists[:-1]).float().mean(dim=1)
        expected = gamma**2 + (1 - gamma) ** 2
        assert float((agreement - expected).abs().max()) < 0.05


def test_ranking_equals_sorting_the_log_softmax() -> None:
    scores = torch.randn(4, VOCABULARY) * 3
    tokens, logprobs = rank(scores, 20)
    expected = torch.log_softmax(scores, dim=-1).topk(20)
    assert torch.equal(tokens.to(torch.int64), expected.indices)
    torch.testing.assert_close(logprobs, expected.values)


def test_ranking_runs_out_of_tokens_where_they_were_filtered() -> None:
    scores = torch.full((1, VOCABULARY), -torch.inf)
    scores[0, [3, 30]] = torch.tensor([1.0, 2.0])
    tokens, logprobs = rank(scores, 5)
    assert tokens[0, :2].tolist() == [30, 3]
    assert logprobs[0, 2:].tolist() == [-torch.inf] * 3


def test_tokens_that_tie_with_the_kth_are_kept() -> None:
    logits = torch.full((1, VOCABULARY), -1.0)
    logits[0, :4] = torch.tensor([3.0, 2.0, 2.0, 2.0])
    kept = ours([SamplingParameters(top_k=2)], [torch.tensor([0])], logits) > -torch.inf
    assert kept[0].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_logprobs_are_the_log_softmax_of_the_processed_scores() -> None:
    asked = SamplingParameters(temperature=0.7, top_k=50, repetition_penalty=1.3, seed=11)
    logits = torch.randn(1, VOCABULARY) * 3
    ids = torch.randint(0, VOCABULARY, (20,))
    history, integers = history_of([ids]), torch.from_numpy(integer_parameters(asked))
    floats = torch.from_numpy(float_parameters(asked))
    scores = process_rows(logits, history, floats, integers, WatermarkStrength())
    chosen, logprob = choose_rows(scores, history, integers)
    expected = torch.log_softmax(reference(asked, ids, logits[0]), dim=-1)[int(chosen)]
    torch.testing.assert_close(logprob[0, 0], expected, rtol=1e-5, atol=1e-5)
