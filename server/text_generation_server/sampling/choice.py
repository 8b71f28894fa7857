"""The choice of a token from scores: arg max, or a draw by the Gumbel trick, with its logprob.

The vocabulary is looked at in parts, and then the parts are compared: so several chips, each of which has a part of
it, need to meet once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from text_generation_server.sampling.random import gumbel_noise

PARTS = 8
"""Of the vocabulary; 2, 4 or 8 chips have whole ones."""

Gather = Callable[[Tensor], Tensor]


def as_it_is(found: Tensor) -> Tensor:
    return found


def choose_greedy(logits: Tensor, gather: Gather = as_it_is) -> tuple[Tensor, Tensor]:
    """The best token of each row and its logprob.

    Args:
        logits: [rows, vocabulary], any float dtype.
        gather: called with what was found in the parts, [rows, PARTS, ...], before they are compared.

    Returns:
        [rows, 1] int32 tokens, of those that tie the first, and [rows, 1] float32 logprobs.
    """
    scores = logits.to(torch.float32)
    return best_of_parts(scores, scores, gather)


def choose(
    scores: Tensor,
    samples: Tensor,
    seeds: tuple[Tensor, Tensor],
    position: Tensor,
    gather: Gather = as_it_is,
) -> tuple[Tensor, Tensor]:
    """A draw from softmax(scores) in rows that sample, the best token in the others.

    Args:
        scores: [rows, vocabulary] float32, as `processing.process` returns them.
        samples: [rows, 1] bool.
        seeds: low and high half of each row's seed, [rows, 1] int32.
        position: [rows, 1] int32, the position in the sequence of the token to be chosen.
        gather: see `choose_greedy`.

    Returns:
        [rows, 1] int32 tokens and [rows, 1] float32 logprobs under the scores, without the noise.
    """
    noise = gumbel_noise(*seeds, position, scores.shape[-1])
    return best_of_parts(torch.where(samples, scores + noise, scores), scores, gather)


def best_of_parts(values: Tensor, scores: Tensor, gather: Gather) -> tuple[Tensor, Tensor]:
    """Where `values` [rows, vocabulary] are highest, [rows, 1] int32, and the logprobs there under `scores`.

    -inf in both is a token that must not be chosen; one at least may be.
    """
    width = -(-values.shape[1] // PARTS)
    values, parts = in_parts(values, width), in_parts(scores, width)
    lanes = torch.arange(width, dtype=torch.int32, device=scores.device)
    place = torch.argmax(values, dim=-1, keepdim=True).to(torch.int32)
    first = torch.arange(PARTS, dtype=torch.int32, device=scores.device).reshape(1, -1, 1) * width
    # A masked maximum instead of a gather: the XLA TPU compiler fuses it with the reduction before it.
    score = torch.where(lanes == place, parts, -torch.inf).amax(dim=-1, keepdim=True)
    highest = parts.amax(dim=-1, keepdim=True)
    # A part in which nothing may be chosen has no weight, and not inf - inf.
    weights = torch.exp(parts - torch.where(highest > -torch.inf, highest, 0.0))
    # Token ids are below 2^24, which float32 holds exactly.
    found = [
        values.amax(dim=-1, keepdim=True),
        (first + place).to(torch.float32),
        score,
        highest,
        weights.sum(dim=-1, keepdim=True),
    ]
    value, token, score, highest, weight = gather(torch.cat(found, dim=-1)).unbind(dim=-1)
    numbers = torch.arange(PARTS, dtype=torch.int32, device=scores.device)
    is_best = numbers == torch.argmax(value, dim=-1, keepdim=True).to(torch.int32)
    top = highest.amax(dim=-1, keepdim=True)
    total = (weight * torch.exp(highest - top)).sum(dim=-1, keepdim=True)
    logprob = torch.where(is_best, score, -torch.inf).amax(dim=-1, keepdim=True) - top - torch.log(total)
    return torch.where(is_best, token, 0.0).sum(dim=-1, keepdim=True).to(torch.int32), logprob


def in_parts(values: Tensor, width: int) -> Tensor:
    """[rows, PARTS, width]; behind the vocabulary -inf."""
    spare = width * PARTS - values.shape[1]
    filled = torch.nn.functional.pad(values, (0, spare), value=-torch.inf) if spare else values
    return filled.reshape(-1, PARTS, width)
