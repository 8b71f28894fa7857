"""The choice of a token from scores: arg max, or a draw by the Gumbel trick, with its logprob."""

import torch
from torch import Tensor

from text_generation_server.sampling.random import gumbel_noise


def choose_greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The best token of each row and its logprob.

    Args:
        logits: [rows, vocabulary], any float dtype.

    Returns:
        [rows, 1] int32 tokens and [rows, 1] float32 logprobs.
    """
    scores = logits.to(torch.float32)
    chosen = torch.argmax(scores, dim=-1, keepdim=True).to(torch.int32)
    # The chosen score is the maximum, so no gather is needed.
    return chosen, scores.amax(dim=-1, keepdim=True) - torch.logsumexp(scores, dim=-1, keepdim=True)


def choose(
    scores: Tensor, samples: Tensor, seeds: tuple[Tensor, Tensor], position: Tensor
) -> tuple[Tensor, Tensor]:
    """A draw from softmax(scores) in rows that sample, the best token in the others.

    Args:
        scores: [rows, vocabulary] float32, as `processing.process` returns them.
        samples: [rows, 1] bool.
        seeds: low and high half of each row's seed, [rows, 1] int32.
        position: [rows, 1] int32, the position in the sequence of the token to be chosen.

    Returns:
        [rows, 1] int32 tokens and [rows, 1] float32 logprobs under the scores, without the noise.
    """
    noise = gumbel_noise(*seeds, position, scores.shape[-1])
    chosen = torch.argmax(torch.where(samples, scores + noise, scores), dim=-1, keepdim=True).to(torch.int32)
    lanes = torch.arange(scores.shape[-1], dtype=torch.int32, device=scores.device).unsqueeze(0)
    # A masked maximum instead of a gather: the XLA TPU compiler fuses it with the reduction before it.
    best = torch.where(lanes == chosen, scores, -torch.inf).amax(dim=-1, keepdim=True)
    return chosen, best - torch.logsumexp(scores, dim=-1, keepdim=True)
