"""The programs that were started and not read, oldest first: prefills and decode steps."""

from collections import deque
from dataclasses import dataclass

from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.slots import SlotTable
from text_generation_server.engine.contract import PendingOutput


@dataclass(frozen=True)
class InFlight:
    """One program.

    Attributes:
        owners: by slot, those for whom it chooses a token.
    """

    pending: PendingOutput
    owners: dict[int, RequestState]
    is_step: bool


class StepsInFlight:
    """A queue; the device runs in the same order."""

    def __init__(self) -> None:
        self._queue: deque[InFlight] = deque()

    def __len__(self) -> int:
        """The number of programs."""
        return len(self._queue)

    @property
    def steps(self) -> int:
        """The number of decode steps."""
        return sum(entry.is_step for entry in self._queue)

    @property
    def prefills(self) -> int:
        """The number of prefills."""
        return len(self._queue) - self.steps

    def add(self, pending: PendingOutput, owners: dict[int, RequestState], *, is_step: bool) -> None:
        """Takes in a program that was just started."""
        for owner in owners.values():
            owner.in_flight += 1
        self._queue.append(InFlight(pending, owners, is_step))

    def pop(self) -> InFlight:
        """The oldest one, which is to be read now. IndexError if there is none."""
        entry = self._queue.popleft()
        for owner in entry.owners.values():
            owner.in_flight -= 1
        return entry

    def drop_for_nobody(self, slots: SlotTable) -> None:
        """Forgets the programs whose owners all gave their slots back: nobody needs to wait for them."""
        self._queue = deque(entry for entry in self._queue if slots.still_live(entry.owners))
