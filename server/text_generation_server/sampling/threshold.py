"""Cut-offs of top-k, top-p and typical-p without sorting.

Sorting the vocabulary is the slow way on an XLA device: a TPU sorts badly and scatters worse. Each of
the three filters keeps the entries whose key lies above a cut-off, and the weight above a cut-off falls
as it rises, so the cut-off is found by halving an interval: one compare and one reduction per step.
"""

import torch
from torch import Tensor

# After 32 halvings the interval is 2^-32 of the row's range: finer than float32 resolves the keys
# themselves, unless two keys lie closer than that to each other, and such keys count as a tie.
STEPS = 32


def keep_heaviest(keys: Tensor, weights: Tensor, target: Tensor) -> Tensor:
    """Marks the smallest set of largest keys whose weights reach the target; ties are kept together.

    Args:
        keys: [rows, n] float32; -inf is never kept.
        weights: [rows, n] float32, not negative.
        target: [rows, 1] float32. If all weights together do not reach it, everything finite is kept.

    Returns:
        [rows, n] bool.
    """
    finite = keys > -torch.inf
    high = keys.amax(dim=-1, keepdim=True)
    low = torch.where(finite, keys, high).amin(dim=-1, keepdim=True)
    # The weight above `low` must reach the target for every row that can; one below the smallest key.
    low = low - 1.0
    for _ in range(STEPS):
        middle = (low + high) * 0.5
        enough = torch.where(keys > middle, weights, 0.0).sum(dim=-1, keepdim=True) >= target
        low = torch.where(enough, middle, low)
        high = torch.where(enough, high, middle)
    return (keys > low) & finite
