"""The programs that were started and not read, oldest first: pieces of prompts, and decode steps."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.slots import SlotTable
from text_generation_server.batching.step_times import StepKind
from text_generation_server.engine.contract import PendingOutput, PendingPiece

Owners = dict[int, RequestState]


@dataclass(frozen=True)
class StepInFlight:
    """One decode step, or several in one program.

    Attributes:
        owners: by slot, those for whom it chooses a token, or several.
        started: when its model was, in seconds, see `time.monotonic`.
        kind: LOOPED for several.
        drafted: by slot, the number of drafts.
    """

    pending: PendingOutput
    owners: Owners
    started: float
    kind: StepKind
    drafted: Mapping[int, int]


@dataclass(frozen=True)
class PieceInFlight:
    """One piece. `owners`: by slot, those whose prompts it has a part of."""

    pending: PendingPiece
    owners: Owners


class StepsInFlight:
    """A queue; the device runs in the same order."""

    def __init__(self) -> None:
        self._queue: deque[StepInFlight | PieceInFlight] = deque()

    def __len__(self) -> int:
        """The number of programs."""
        return len(self._queue)

    @property
    def steps(self) -> int:
        """The number of decode steps."""
        return sum(isinstance(entry, StepInFlight) for entry in self._queue)

    @property
    def pieces(self) -> int:
        """The number of pieces."""
        return len(self._queue) - self.steps

    @property
    def ends_with_piece(self) -> bool:
        """The newest program is a piece."""
        return bool(self._queue) and isinstance(self._queue[-1], PieceInFlight)

    @property
    def ends_with_several(self) -> bool:
        """The newest program may choose several tokens for a request: nobody knows how many until it is read."""
        newest = self._queue[-1] if self._queue else None
        return isinstance(newest, StepInFlight) and newest.kind is not StepKind.PLAIN

    def add_step(
        self,
        pending: PendingOutput,
        owners: Owners,
        started: float,
        kind: StepKind = StepKind.PLAIN,
        drafted: Mapping[int, int] | None = None,
    ) -> None:
        """Takes in a step that was started; arguments as in `StepInFlight`."""
        for owner in owners.values():
            owner.in_flight += 1
        self._queue.append(StepInFlight(pending, owners, started, kind, drafted or {}))

    def add_piece(self, pending: PendingPiece, owners: Owners) -> None:
        """Takes in a piece that was just started."""
        self._queue.append(PieceInFlight(pending, owners))

    def pop(self) -> StepInFlight | PieceInFlight:
        """The oldest one, which is to be read now. IndexError if there is none."""
        entry = self._queue.popleft()
        if isinstance(entry, StepInFlight):
            for owner in entry.owners.values():
                owner.in_flight -= 1
        return entry

    def forget(self, owner: RequestState) -> None:
        """What was started does not concern this request any more, though it may get the same slot again."""
        for entry in self._queue:
            for slot in [slot for slot, held_by in entry.owners.items() if held_by is owner]:
                del entry.owners[slot]
        owner.in_flight = 0

    def drop_for_nobody(self, slots: SlotTable) -> None:
        """Forgets the programs whose owners all gave their slots back: nobody needs to wait for them."""
        self._queue = deque(entry for entry in self._queue if slots.still_live(entry.owners))
