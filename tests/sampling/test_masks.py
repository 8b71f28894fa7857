"""Packed masks, unpacked as numpy does it."""

import numpy as np
import pytest
import torch

from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.packing import WORD_BITS

ROWS = 5


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_disallowed_tokens_are_impossible_and_allowed_ones_are_left_as_they_are(
    vocabulary: int, dtype: torch.dtype
) -> None:
    words = -(-vocabulary // WORD_BITS)
    packed = (
        np.random.default_rng(0).integers(-(2**31), 2**31, (ROWS, words), dtype=np.int64).astype(np.int32)
    )
    packed[0], packed[1] = -1, 0
    logits = torch.randn(ROWS, vocabulary).to(dtype)
    masked = mask_disallowed(logits, torch.from_numpy(packed))
    allowed = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")[:, :vocabulary].astype(bool)
    assert masked.dtype == dtype
    assert torch.equal(masked[allowed], logits[allowed])
    assert (masked[~allowed] == -torch.inf).all()
