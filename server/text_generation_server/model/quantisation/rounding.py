"""Weights in fewer bits, made of numbers: one scale for each output, zero in the middle. No torch here."""

import ml_dtypes  # noqa: F401 - makes numpy know fp8 by its name
import numpy as np
from numpy.typing import NDArray

LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
"""The largest value of a dtype: what becomes of the largest weight of an output."""

BLOCK = 2**19
"""Numbers that are worked on at a time, so that what is in between takes little memory."""


def quantised(
    weight: NDArray[np.generic], values: str, outputs_first: bool
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """The values [inputs, outputs] and scales [1, outputs] of a weight.

    Args:
        weight: [outputs, inputs] if `outputs_first`, else [inputs, outputs].
        values: a dtype of LARGEST.

    Raises:
        ValueError: it has a value that is no finite number.
    """
    columns = weight.T if outputs_first else weight
    inputs, outputs = columns.shape
    made = np.empty((inputs, outputs), dtype=values)
    scales = np.empty((1, outputs), dtype=np.float32)
    step = max(1, BLOCK // inputs)
    for start in range(0, outputs, step):
        block = columns[:, start : start + step].astype(np.float32)
        largest = np.maximum(block.max(axis=0), -block.min(axis=0))
        if not np.isfinite(largest).all():
            raise ValueError("it has values that are not finite")
        scale = np.where(largest > 0, largest / np.float32(LARGEST[values]), np.float32(1))
        block /= scale
        made[:, start : start + step] = np.rint(block, out=block) if values == "int8" else block
        scales[0, start : start + step] = scale
    return made, scales
