"""A watermark that a detector finds without the model (Kirchenbauer et al., "A Watermark for LLMs", 2023).

The token before decides, by a hash, which part of the vocabulary is green; green tokens get a bonus. A text with far
more green tokens than that part's size was watermarked. TGI draws the green list with torch's generator, which an
XLA device does not have; the scheme and its two parameters are the same, the lists are not.
"""

import torch
from torch import Tensor

from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.sampling.random import mix, shift_right

# Keeps the lists apart from the draws, which hash the same numbers. The prime is the paper's.
HASH_KEY = 15_485_863


def green(previous: Tensor, count: int, gamma: float) -> Tensor:
    """Marks the green tokens after a token.

    Args:
        previous: [rows, 1] int32, the token before.
        count: size of the vocabulary.

    Returns:
        [rows, count] bool; the share of True is gamma, up to chance.
    """
    key = mix(previous * HASH_KEY + 1)
    lanes = torch.arange(count, dtype=torch.int32, device=previous.device).unsqueeze(0)
    return shift_right(mix(mix(lanes + HASH_KEY) ^ key), 8).to(torch.float32) < gamma * 2.0**24


def add_watermark(scores: Tensor, watermark: Tensor, previous: Tensor, strength: WatermarkStrength) -> Tensor:
    """Scores [rows, vocabulary] with the bonus, in the rows where `watermark` [rows, 1] is True."""
    bonus = green(previous, scores.shape[-1], strength.gamma) & watermark
    return torch.where(bonus, scores + strength.delta, scores)
