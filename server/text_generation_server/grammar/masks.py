"""The masks of a step, for all slots together."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from text_generation_server.grammar.constraint import Constraint

EVERYTHING = -1
"""A word with all bits set."""


def masks_of_step(constraints: Mapping[int, Constraint | None], batch_size: int) -> NDArray[np.int32] | None:
    """The masks, [batch_size, words], of live slots; None if no slot has a constraint.

    A slot whose constraint fails, which its `failure` tells, may choose anything.
    """
    constrained = {slot: constraint for slot, constraint in constraints.items() if constraint is not None}
    if not constrained:
        return None
    words = max(constraint.words for constraint in constrained.values())
    masks = np.full((batch_size, words), EVERYTHING, dtype=np.int32)
    for slot, constraint in constrained.items():
        allowed = constraint.allowed()
        if allowed is not None:
            masks[slot] = allowed
    return masks
