"""Slots whose prompts are on their way into the cache, and how they share pieces."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.buckets import PieceShape
from text_generation_server.engine.contract import EngineInfo, Prefix
from text_generation_server.sampling.parameters import SamplingParameters


def check_fill(
    slot: int, length: int, scored: bool, prefix: Prefix | None, used: Collection[int], info: EngineInfo
) -> None:
    """Raises what `contract.Engine.fill` says of a prompt of `length` tokens; `used`: slots that are not free."""
    limit, slots = info.max_length, info.batch_size
    if not 1 <= length < limit:
        raise ValueError(f"A prompt must have 1 to {limit - 1} tokens. Given: {length}.")
    if not 0 <= slot < slots:
        raise RuntimeError(f"There is no slot {slot}: the slots are 0 to {slots - 1}.")
    if slot in used:
        raise RuntimeError(f"Slot {slot} is in use: release it before it is filled again.")
    if scored and not info.scores_prompts:
        raise RuntimeError("This engine does not score prompts.")
    if prefix is None:
        return
    if scored or not (0 <= prefix.slot < slots and 0 <= prefix.length <= length):
        raise ValueError(f"A prompt of {length} tokens cannot begin with {prefix} (scored: {scored}).")


@dataclass
class FillingSlot:
    """A prompt that is not complete.

    Attributes:
        token_ids: [tokens] int32.
        held: how many of them the slot holds, or will when the pieces that were started have run.
        adapter: index.
        ranked, scored: see `contract.Engine.fill`.
    """

    slot: int
    token_ids: NDArray[np.int32]
    held: int
    sampling: SamplingParameters
    adapter: int
    ranked: bool
    scored: bool

    @property
    def missing(self) -> int:
        """Tokens still to come. The last one of the prompt is left to the first step."""
        return len(self.token_ids) - 1 - self.held


@dataclass(frozen=True)
class PieceRow:
    """Tokens `start` to `end` of one slot's prompt."""

    filling: FillingSlot
    start: int
    end: int


def next_rows(
    filling: Sequence[FillingSlot], shapes: Sequence[PieceShape]
) -> tuple[PieceShape, list[PieceRow]]:
    """The piece that takes most of the prompts, those that were filled first, and of those that take as much the
    cheapest.

    A prompt that is scored has its pieces alone.

    Args:
        filling: not empty; each misses at least one token.
    """
    is_scored = filling[0].scored
    candidates = filling[:1] if is_scored else [each for each in filling if not each.scored]
    cuts = [(shape, cut(candidates, shape)) for shape in shapes]
    return max(cuts, key=lambda each: (covered(each[1]), -each[0].tokens, -each[0].rows))


def cut(filling: Sequence[FillingSlot], shape: PieceShape) -> list[PieceRow]:
    """The rows that fit in a piece of that shape, from the first slot on."""
    rows: list[PieceRow] = []
    for each in filling:
        start, end = each.held, each.held + each.missing
        while start < end and len(rows) < shape.rows:
            rows.append(PieceRow(each, start, min(start + shape.width, end)))
            start += shape.width
    return rows


def covered(rows: Sequence[PieceRow]) -> int:
    return sum(row.end - row.start for row in rows)


def piece_arrays(
    rows: Sequence[PieceRow], shape: PieceShape, max_length: int
) -> dict[str, NDArray[np.int32]]:
    """The inputs of `programs.extend` and `programs.score`."""
    ids = np.zeros((shape.rows, shape.width), np.int32)
    next_ids = np.zeros_like(ids)
    slots, starts, adapters, prompts = (np.zeros(shape.rows, np.int32) for _ in range(4))
    for place in range(shape.rows):
        # Rows that are not needed repeat the first one.
        row = rows[place] if place < len(rows) else rows[0]
        start = row_start(row, shape, max_length)
        tokens = row.filling.token_ids
        ids[place, : row.end - start] = tokens[start : row.end]
        next_ids[place, : row.end - start] = tokens[start + 1 : row.end + 1]
        slots[place], starts[place], adapters[place] = row.filling.slot, start, row.filling.adapter
        prompts[place] = len(tokens)
    by_row = {"slots": slots, "starts": starts, "row_adapters": adapters, "prompts": prompts}
    return {"ids": ids, "next_ids": next_ids, **by_row}


def row_start(row: PieceRow, shape: PieceShape, max_length: int) -> int:
    """Where the row begins on the device: a row that would reach past its slot begins earlier, and computes again
    what is there."""
    return min(row.start, max_length - shape.width)
