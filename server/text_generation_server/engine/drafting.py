"""Drafts, and what is wanted of several steps, on their way to the device."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.contract import MOST_ENDS, EngineInfo, Wanted

Drafts = Mapping[int, Sequence[int]]
"""By slot, the tokens that may be chosen next."""


def check_drafts(drafts: Drafts, positions: Mapping[int, int], info: EngineInfo) -> None:
    """Raises what `contract.Engine.verify` says.

    `positions`: of the last token of each live slot, at most.
    """
    for slot, tokens in drafts.items():
        if slot not in positions:
            raise RuntimeError(f"Slot {slot} is not live, and has drafts: {list(tokens)}.")
        room = min(info.drafts, max(0, info.max_length - 2 - positions[slot]))
        if len(tokens) > room:
            raise ValueError(f"Slot {slot} may have at most {room} drafts. Given: {len(tokens)}.")


def draft_arrays(drafts: Drafts, info: EngineInfo) -> dict[str, NDArray[np.int32]]:
    """What `programs.steps.verify` and `programs.choosing.accept` take of them."""
    padded = np.zeros((info.batch_size, info.drafts), np.int32)
    drafted = np.zeros(info.batch_size, np.int32)
    for slot, tokens in drafts.items():
        padded[slot, : len(tokens)] = tokens
        drafted[slot] = len(tokens)
    return {"drafts": padded, "drafted": drafted}


def wanted_arrays(wanted: Mapping[int, Wanted], slots: int) -> dict[str, NDArray[np.int32]]:
    """What a `lowering.loop.Loop` takes of them."""
    tokens = np.zeros(slots, np.int32)
    ends = np.full((slots, MOST_ENDS), -1, np.int32)
    for slot, each in wanted.items():
        tokens[slot] = each.tokens
        known = list(each.ends)[:MOST_ENDS]
        ends[slot, : len(known)] = known
    return {"wanted": tokens, "ends": ends}
