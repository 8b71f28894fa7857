"""MXFP4, in which gpt-oss keeps its experts: 4 bits and, for 32 inputs together, a power of two. No torch here.

The format is the Open Compute Project's (Microscaling Formats, version 1.0, 2023): values are e2m1, exponents e8m0.
They become numbers while they are read, each of which bfloat16 holds exactly.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

METHOD = "mxfp4"
"""What quantization_config calls it."""

VALUES, EXPONENTS = "_blocks", "_scales"
"""What tensors have behind the name of a weight: [experts, outputs, groups, 16] with two values in a byte, the lower
half first, and [experts, outputs, groups]."""

GROUP = 32
BYTES = GROUP // 2

POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NUMBERS = np.array([*POSITIVE, *(-each for each in POSITIVE)], np.float32)
"""By the four bits."""

BIAS, NOT_A_NUMBER = 127, 255


def dequantised(values: NDArray[Any], exponents: NDArray[Any]) -> NDArray[np.float32]:
    """[outputs, groups, 16] and [outputs, groups] uint8 -> [outputs, groups * 32].

    Raises ValueError for an exponent that stands for no number.
    """
    if (exponents == NOT_A_NUMBER).any():
        raise ValueError("it has exponents that are no numbers (255)")
    numbers = np.empty((*values.shape[:-1], GROUP), np.float32)
    numbers[..., 0::2] = NUMBERS[values & 15]
    numbers[..., 1::2] = NUMBERS[values >> 4]
    scaled = np.ldexp(numbers, exponents.astype(np.int32)[..., None] - BIAS)
    return scaled.reshape(len(values), -1)
