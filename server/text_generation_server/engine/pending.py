"""Outcomes on their way from the device to the host."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.contract import ChosenToken, ChosenTokens, PromptLogprobs, RankedTokens
from text_generation_server.engine.device import Buffer, Device
from text_generation_server.engine.watch import DeviceWatch

LOWEST = float(np.finfo(np.float32).min)
"""What recorded programs make of the maximum of nothing but -inf."""


class Pending:
    """Results of a program that may still be computed, and may be read once.

    Attributes:
        started: when its program was, by `time.monotonic`.
    """

    def __init__(self, device: Device, watch: DeviceWatch, packed: Buffer, *others: Buffer) -> None:
        """Lets the copies to the host begin."""
        self.started = time.monotonic()
        self._packed: Buffer | None = packed
        self._others = others
        self._device = device
        self._watch = watch
        for buffer in (packed, *others):
            device.start_reading(buffer)
        watch.started(self)

    def is_over(self) -> bool:
        """See `watch.Unread`."""
        packed = self._packed
        return packed is None or self._device.is_computed(packed)

    def _arrays(self) -> list[NDArray[Any]]:
        """All of them; waits until they are computed. RuntimeError the second time."""
        if self._packed is None:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        with self._watch.waiting():
            arrays = [self._device.read(buffer) for buffer in (self._packed, *self._others)]
        self._watch.read()
        self._packed, self._others = None, ()
        return arrays


class PendingRows(Pending):
    """The result of a choice, see `programs.pack`, and maybe the best tokens; see `contract.PendingOutput`."""

    def __init__(
        self,
        device: Device,
        watch: DeviceWatch,
        packed: Buffer,
        ranked: Buffer | None,
        wants: Mapping[int, bool],
    ) -> None:
        """`wants`: for each slot that was live, whether it wants alternatives; a slot is its row in the results."""
        super().__init__(device, watch, packed, *([] if ranked is None else [ranked]))
        self._wants = wants

    def read(self) -> ChosenTokens:
        packed, *best = self._arrays()
        ranked = best[0] if best else None
        # Two calls for all rows: a conversion of each number by itself would cost more than the rest.
        token_ids, logprobs = packed[:, 0].astype(np.int64).tolist(), packed[:, 1].tolist()
        return {
            slot: (
                chosen_token(
                    token_ids[slot], logprobs[slot], ranked[slot] if wanted and ranked is not None else None
                ),
            )
            for slot, wanted in self._wants.items()
        }


class PendingTokens(Pending):
    """The result of a program that may choose several tokens for a slot, see `programs.choosing.accept` and
    `lowering.loop`, and the best tokens of each place; see `contract.PendingOutput`."""

    def __init__(
        self,
        device: Device,
        watch: DeviceWatch,
        packed: Buffer,
        ranked: Sequence[Buffer],
        wants: Mapping[int, bool],
        on_read: Callable[[ChosenTokens], None],
    ) -> None:
        """
        Args:
            ranked: of each place, if a slot wants alternatives.
            wants: as for `PendingRows`.
            on_read: is told the outcome when it is known.
        """
        super().__init__(device, watch, packed, *ranked)
        self._wants = wants
        self._on_read = on_read

    def read(self) -> ChosenTokens:
        packed, *ranked = self._arrays()
        token_ids, logprobs = packed[..., 0].astype(np.int64), packed[..., 1].tolist()
        counts = np.count_nonzero(token_ids >= 0, axis=1).tolist()
        outcome = {
            slot: tuple(
                chosen_token(
                    int(token_ids[slot, place]),
                    logprobs[slot][place],
                    ranked[place][slot] if wanted and place < len(ranked) else None,
                )
                for place in range(counts[slot])
            )
            for slot, wanted in self._wants.items()
        }
        self._on_read(outcome)
        return outcome


@dataclass(frozen=True)
class ScoredRow:
    """Logprobs that somebody wants: columns `start` to `end` of a row of `programs.score`, for a slot."""

    slot: int
    row: int
    start: int
    end: int


class PendingRun(Pending):
    """A piece; see `contract.PendingPiece`."""

    def __init__(
        self,
        device: Device,
        watch: DeviceWatch,
        packed: Buffer,
        held: Mapping[int, int],
        completed: Sequence[int],
        scored: Sequence[ScoredRow] = (),
    ) -> None:
        super().__init__(device, watch, packed)
        self.held = held
        self.completed = completed
        self._scored = scored

    def read(self) -> PromptLogprobs:
        (values,) = self._arrays()
        logprobs: dict[int, list[float]] = {}
        for each in self._scored:
            logprobs.setdefault(each.slot, []).extend(values[each.row, each.start : each.end].tolist())
        return logprobs


def chosen_token(token_id: int, logprob: float, row: NDArray[np.float32] | None) -> ChosenToken:
    """`row`: of `programs.rank_tokens`, if the slot wants alternatives."""
    if row is None:
        return ChosenToken(token_id, logprob)
    ranked = ranked_tokens(row)
    if token_id in ranked.token_ids:
        # Two programs may round the same logprob differently, and a client would see both.
        logprob = ranked.logprobs[ranked.token_ids.index(token_id)]
    return ChosenToken(token_id, logprob, ranked)


def ranked_tokens(row: NDArray[np.float32]) -> RankedTokens:
    """A row of `programs.rank_tokens`, without the places that hold no token."""
    half = len(row) // 2
    # The places without a token come last.
    count = int(np.count_nonzero(row[half:] > LOWEST))
    return RankedTokens(row[:count].astype(np.int64).tolist(), row[half : half + count].tolist())
