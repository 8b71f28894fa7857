"""The best tokens of each row, for requests that ask for alternatives (`top_n_tokens`)."""

import torch
from torch import Tensor

BLOCK = 128
"""Tokens that are looked at together: the lanes of a TPU's vector registers."""


def rank(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best tokens of each row, best first; of those that tie, the first in the vocabulary.

    Sorting the vocabulary is slow on an XLA device, and so is taking its maximum `count` times. But the best tokens
    are in the blocks with the highest maxima, so one pass over the vocabulary finds these blocks, and all else
    happens within them. If more tokens tie with the last one than there is room for, any of them may be left out.

    Args:
        scores: [rows, vocabulary] float32; filtered tokens are -inf.

    Returns:
        [rows, count] int32 tokens and [rows, count] float32 logprobs. Where fewer tokens are left than asked
        for, the logprob is -inf (or, by XLA, the lowest finite number) and the token means nothing.
    """
    logprobs = torch.log_softmax(scores, dim=-1)
    rows, vocabulary = logprobs.shape
    blocks = torch.nn.functional.pad(logprobs, (0, -vocabulary % BLOCK), value=-torch.inf)
    blocks = blocks.reshape(rows, -1, BLOCK)
    places = best_places(blocks.amax(dim=-1), count)
    candidates = torch.gather(blocks, 1, places.to(torch.int64).unsqueeze(-1).expand(-1, -1, BLOCK))
    lanes = torch.arange(BLOCK, dtype=torch.int32, device=scores.device)
    tokens = (places.unsqueeze(-1) * BLOCK + lanes).reshape(rows, -1)
    return best_tokens(candidates.reshape(rows, -1), tokens, count)


def best_places(values: Tensor, count: int) -> Tensor:
    """Where the highest of [rows, n] float32 are: [rows, min(count, n)] int32; maybe one twice, if most are -inf."""
    lanes = torch.arange(values.shape[1], dtype=torch.int32, device=values.device).unsqueeze(0)
    places = []
    for _ in range(min(count, values.shape[1])):
        best = torch.argmax(values, dim=-1, keepdim=True).to(torch.int32)
        places.append(best)
        values = torch.where(lanes == best, -torch.inf, values)
    return torch.cat(places, dim=1)


def best_tokens(logprobs: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of some tokens, [rows, n] int32, with their logprobs, [rows, n] float32; see `rank`.

    A token may stand there twice, and is given out once.
    """
    chosen, values = [], []
    for _ in range(count):
        highest = logprobs.amax(dim=-1, keepdim=True)
        first = torch.where(logprobs == highest, tokens, 2**31 - 1).amin(dim=-1, keepdim=True)
        values.append(highest)
        chosen.append(first)
        logprobs = torch.where(tokens == first, -torch.inf, logprobs)
    return torch.cat(chosen, dim=1), torch.cat(values, dim=1)
