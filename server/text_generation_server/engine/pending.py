"""Outcomes on their way from the device to the host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.contract import ChosenToken, ChosenTokens, PromptLogprobs, RankedTokens
from text_generation_server.engine.device import Buffer, Device
from text_generation_server.engine.watch import DeviceWatch

LOWEST = float(np.finfo(np.float32).min)
"""What recorded programs make of the maximum of nothing but -inf."""


class PendingRows:
    """The result of a choice that may still be computed; see `contract.PendingOutput`.

    Attributes:
        packed: on the device, see `programs.pack`.
    """

    def __init__(
        self,
        device: Device,
        watch: DeviceWatch,
        packed: Buffer,
        ranked: Buffer | None,
        wants: Mapping[int, bool],
    ) -> None:
        """`wants`: for each slot that was live, whether it wants alternatives; a slot is its row in the results."""
        self.packed = packed
        self._device = device
        self._watch = watch
        self._ranked = ranked
        self._wants = wants
        device.start_reading(packed)
        if ranked is not None:
            device.start_reading(ranked)

    def read(self) -> ChosenTokens:
        if self.packed is None:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        with self._watch.waiting():
            packed = self._device.read(self.packed)
            ranked = None if self._ranked is None else self._device.read(self._ranked)
        self.packed = self._ranked = None
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


class PendingVerification:
    """The result of `programs.accept` that may still be computed; see `contract.PendingOutput`.

    Attributes:
        packed: on the device, `chosen`.
    """

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
        self.packed = packed
        self._device = device
        self._watch = watch
        self._ranked = ranked
        self._wants = wants
        self._on_read = on_read
        for buffer in (packed, *ranked):
            device.start_reading(buffer)

    def read(self) -> ChosenTokens:
        if self.packed is None:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        with self._watch.waiting():
            packed = self._device.read(self.packed)
            ranked = [self._device.read(buffer) for buffer in self._ranked]
        self.packed, self._ranked = None, ()
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


class PendingRun:
    """A piece that may still be computed; see `contract.PendingPiece`.

    Attributes:
        packed: on the device, a result of the program.
    """

    def __init__(
        self,
        device: Device,
        watch: DeviceWatch,
        packed: Buffer,
        held: Mapping[int, int],
        completed: Sequence[int],
        scored: Sequence[ScoredRow] = (),
    ) -> None:
        self.packed = packed
        self.held = held
        self.completed = completed
        self._device = device
        self._watch = watch
        self._scored = scored
        device.start_reading(packed)

    def read(self) -> PromptLogprobs:
        if self.packed is None:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        with self._watch.waiting():
            values = self._device.read(self.packed)
        self.packed = None
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
