"""The masks of a step, for all slots together."""

from collections.abc import Mapping, Sequence

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


def masks_of_drafts(
    constraints: Mapping[int, Constraint | None], drafts: Mapping[int, Sequence[int]], batch_size: int
) -> tuple[dict[int, Sequence[int]], list[NDArray[np.int32]]]:
    """The drafts that their slots' grammars allow, and the masks of each place: after the last token, after the first
    draft, and so on; none without a constraint.

    A slot whose constraint fails, which its `failure` tells, has no drafts left.
    """
    kept = dict(drafts)
    first = masks_of_step(constraints, batch_size)
    if first is None:
        return kept, []
    masks = [first]
    for slot, constraint in constraints.items():
        if constraint is None or slot not in kept:
            continue
        ahead = [] if constraint.failure is not None else constraint.ahead(kept[slot])
        kept[slot] = kept[slot][: len(ahead)]
        for place, mask in enumerate(ahead, start=1):
            if place == len(masks):
                masks.append(np.full_like(first, EVERYTHING))
            masks[place][slot] = mask
    return kept, masks
