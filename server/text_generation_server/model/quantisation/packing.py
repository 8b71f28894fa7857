"""Small integers that checkpoints keep in words of 32 bits. No torch here."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 32

AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)
"""In AutoAWQ's words column 1 of eight is the fifth, and so on."""


def unpacked(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """[rows, n] int32 -> [rows, n * 32 / bits], the lowest bits first; `bits` is 4 or 8."""
    rows = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return rows
    values = np.empty((rows.shape[0], rows.shape[1] * 2), np.uint8)
    values[:, 0::2] = rows & 15
    values[:, 1::2] = rows >> 4
    return values
