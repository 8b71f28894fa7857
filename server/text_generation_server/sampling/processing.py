"""From logits to processed scores, in TGI's order: watermark, repetition, frequency, temperature, top-k, top-p,
typical-p.

All functions are pure and work on all rows at once; each row has its own parameters, and a neutral
parameter leaves its row exactly as it was. transformers' logits processors are the reference.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.threshold import keep_heaviest
from text_generation_server.sampling.watermark import add_watermark


@dataclass(frozen=True)
class ProcessingTensors:
    """SamplingParameters as tensors, one row per slot.

    Attributes:
        temperature, top_p, typical_p, repetition_penalty, frequency_penalty: [rows, 1] float32.
        top_k: [rows, 1] int32, 0 is off.
        watermark: [rows, 1] bool.
    """

    temperature: Tensor
    top_p: Tensor
    typical_p: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    top_k: Tensor
    watermark: Tensor


@dataclass(frozen=True)
class History:
    """What the processing looks at of prompt and output so far, one row per slot.

    Attributes:
        counts: [rows, vocabulary] int32, how often each token occurs.
        length: [rows, 1] int32, number of tokens.
        previous: [rows, 1] int32, the last token.
    """

    counts: Tensor
    length: Tensor
    previous: Tensor


def process(
    logits: Tensor,
    history: History,
    parameters: ProcessingTensors,
    strength: WatermarkStrength,
    processing: Processing = Processing.EVERYTHING,
) -> Tensor:
    """Scores whose softmax is the distribution to choose from; filtered tokens are -inf.

    Args:
        logits: [rows, vocabulary], any float dtype.
        strength: of the watermark, where a row has one.
        processing: what the most demanding row needs. More of it costs time and changes no other row.

    Returns:
        [rows, vocabulary] float32.
    """
    scores = logits.to(torch.float32)
    if processing >= Processing.EVERYTHING:
        scores = add_watermark(scores, parameters.watermark, history.previous, strength)
    scores = penalize(scores, history, parameters)
    scores = scores / parameters.temperature
    if processing >= Processing.FILTERS:
        scores = filter_top_p(filter_top_k(scores, parameters.top_k), parameters.top_p)
    if processing >= Processing.EVERYTHING:
        scores = filter_typical(scores, parameters.typical_p)
    return scores


def penalize(scores: Tensor, history: History, parameters: ProcessingTensors) -> Tensor:
    """Repetition penalty once per distinct token, then frequency penalty by relative frequency.

    TGI's flash models divide the count by the padded width of the batch's token matrix, so the outcome
    depends on the neighbours. Here it is divided by the request's own length, which is what TGI computes
    for a request that runs alone.
    """
    penalty = parameters.repetition_penalty
    repeated = torch.where(scores < 0, scores * penalty, scores / penalty)
    scores = torch.where(history.counts > 0, repeated, scores)
    frequency = history.counts.to(torch.float32) / history.length.to(torch.float32)
    return scores - parameters.frequency_penalty * frequency


def filter_top_k(scores: Tensor, top_k: Tensor) -> Tensor:
    """Keeps the k best tokens and all that tie with the k-th."""
    target = top_k.clamp(max=scores.shape[-1]).to(torch.float32)
    keep = keep_heaviest(scores, torch.ones_like(scores), target)
    return torch.where(keep | (top_k == 0), scores, -torch.inf)


def filter_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Keeps the smallest set of best tokens whose probabilities sum to top_p or more (Holtzman et al., 2019)."""
    keep = keep_heaviest(scores, torch.softmax(scores, dim=-1), top_p)
    return torch.where(keep | (top_p >= 1.0), scores, -torch.inf)


def filter_typical(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keeps the tokens whose surprise is closest to the entropy, up to a mass of typical_p (Meister et al., 2022)."""
    logprobs = torch.log_softmax(scores, dim=-1)
    probabilities = torch.exp(logprobs)
    # 0 * -inf is NaN: a token that was filtered before adds nothing to the entropy.
    entropy = -torch.where(probabilities > 0, probabilities * logprobs, 0.0).sum(dim=-1, keepdim=True)
    typicality = torch.where(scores > -torch.inf, -torch.abs(-logprobs - entropy), -torch.inf)
    keep = keep_heaviest(typicality, probabilities, typical_p)
    return torch.where(keep | (typical_p >= 1.0), scores, -torch.inf)
