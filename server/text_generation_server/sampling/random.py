"""Random numbers that depend on a request's seed and on nothing else.

Each draw is a hash of (seed, position of the token, vocabulary index): no generator state has to be
kept, moved or split, and a request draws the same numbers in any slot, in any batch, at any time.
Plain int32 arithmetic, since XLA has no per-row generator and emulates 64-bit integers on a TPU.
"""

import torch
from torch import Tensor

# The multipliers and shifts of a 32-bit mixer with low bias, found by exhaustive search
# (C. Wellons, "Prospecting for Hash Functions", 2018).
FIRST_MULTIPLIER = 0x7FEB352D
SECOND_MULTIPLIER = 0x846CA68B - 2**32
GOLDEN_RATIO = 0x9E3779B9 - 2**32


def shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift of int32; torch's own shift copies the sign bit.

    Not `bits >> count`: torch_xla makes a division of that, which rounds negative numbers the other way.
    """
    places = torch.full((), count, dtype=torch.int32, device=bits.device)
    return torch.bitwise_right_shift(bits, places) & ((1 << (32 - count)) - 1)


def mix(bits: Tensor) -> Tensor:
    """Maps int32 to int32, one to one, so that each input bit flips each output bit half of the time."""
    bits = (bits ^ shift_right(bits, 16)) * FIRST_MULTIPLIER
    bits = (bits ^ shift_right(bits, 15)) * SECOND_MULTIPLIER
    return bits ^ shift_right(bits, 16)


def gumbel_noise(seed_low: Tensor, seed_high: Tensor, position: Tensor, count: int) -> Tensor:
    """Standard Gumbel noise: the arg max of scores plus noise is a draw from softmax(scores).

    Args:
        seed_low, seed_high: [rows, 1] int32, the halves of the seed.
        position: [rows, 1] int32, the position in the sequence of the token to be drawn.
        count: number of draws per row, the vocabulary size.

    Returns:
        [rows, count] float32, finite.
    """
    key = mix(mix(seed_low + GOLDEN_RATIO) ^ seed_high)
    first = mix(key + position)
    second = mix(first ^ seed_low + GOLDEN_RATIO)
    lanes = torch.arange(count, dtype=torch.int32, device=position.device).unsqueeze(0)
    bits = mix(mix(lanes ^ first) + second)
    # 23 bits and the half in between are exact in float32, so that 0 and 1 never occur.
    uniform = (shift_right(bits, 9).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))
