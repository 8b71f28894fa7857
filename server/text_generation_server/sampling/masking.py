"""Keeps disallowed tokens from being chosen, for requests with a grammar."""

import torch
from torch import Tensor

from text_generation_server.sampling.packing import WORD_BITS


def mask_disallowed(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits with -inf where a token is not allowed.

    This comes before all other processing, which leaves -inf as it is; so the outcome is that of TGI's order, in which
    a grammar follows the penalties.

    Args:
        logits: [rows, vocabulary], any float dtype.
        allowed: [rows, ceil(vocabulary / WORD_BITS)] int32; bit i of word w is for token `WORD_BITS * w + i`.

    Returns:
        [rows, vocabulary] in the dtype of the logits.
    """
    rows, vocabulary = logits.shape
    places = torch.arange(WORD_BITS, dtype=torch.int32, device=logits.device)
    # Not `>>`, which torch_xla lowers to a division. The sign bit that is copied in does not matter to the lowest bit.
    bits = torch.bitwise_right_shift(allowed.unsqueeze(2), places) & 1
    return torch.where(bits.reshape(rows, -1)[:, :vocabulary] != 0, logits, -torch.inf)
