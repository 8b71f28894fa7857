"""The table of slots: which request holds which."""

import heapq

from text_generation_server.batching.request_state import RequestState, State


class SlotTable:
    """Who holds which slot. A slot is free, then live for one request, then free again.

    The owner is known by identity, and no request holds a slot twice: so whoever remembers the owners of the
    time when a program was started can tell, when its outcome arrives, whether it still concerns anybody.
    """

    def __init__(self, size: int) -> None:
        self._free = list(range(size))  # sorted, hence a heap
        self._owners: dict[int, RequestState] = {}

    @property
    def free_count(self) -> int:
        return len(self._free)

    def take(self, owner: RequestState) -> int:
        """Gives the lowest free slot to `owner`. RuntimeError if none is free, or if it does not wait for one."""
        if owner.state is not State.WAITING:
            raise RuntimeError(f"Request {owner.id} is {owner.state.value}: it cannot have a slot.")
        if not self._free:
            raise RuntimeError(f"No slot is free for request {owner.id}: all {len(self._owners)} are live.")
        slot = heapq.heappop(self._free)
        self._owners[slot] = owner
        owner.seat(slot)
        return slot

    def free(self, owner: RequestState) -> int:
        """Takes the slot back from its owner and returns its number. RuntimeError if it holds none."""
        slot = owner.slot
        if slot is None or self._owners.get(slot) is not owner:
            raise RuntimeError(f"Request {owner.id} holds no slot that could be freed.")
        del self._owners[slot]
        heapq.heappush(self._free, slot)
        owner.slot = None
        return slot

    def owners(self) -> dict[int, RequestState]:
        """The live slots and their owners as of now, by slot; a copy."""
        return dict(sorted(self._owners.items()))

    def still_live(self, owners: dict[int, RequestState]) -> dict[int, RequestState]:
        """Those of earlier `owners` that hold the same slot still."""
        return {slot: owner for slot, owner in owners.items() if self._owners.get(slot) is owner}
