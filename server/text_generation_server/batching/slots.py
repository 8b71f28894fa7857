"""The table of slots: which request holds which."""

from text_generation_server.batching.request_state import RequestState, State


class SlotTable:
    """Who holds which slot. A slot is free, then held by one request, then free again.

    The owner is known by identity: so whoever remembers the owners of the time when a program was started can tell,
    when its outcome arrives, whether it still concerns anybody. A request that takes a slot for the second time has to
    be forgotten by them, see `StepsInFlight.forget`.
    """

    def __init__(self, size: int) -> None:
        self._free = set(range(size))
        self._owners: dict[int, RequestState] = {}

    @property
    def free_slots(self) -> frozenset[int]:
        return frozenset(self._free)

    def take(self, owner: RequestState, slot: int) -> None:
        """Gives a free slot to `owner`. RuntimeError if it is not free, or if the owner does not wait for one."""
        if owner.state is not State.WAITING:
            raise RuntimeError(f"Request {owner.id} is {owner.state.value}: it cannot have a slot.")
        if slot not in self._free:
            raise RuntimeError(f"Slot {slot} is not free for request {owner.id}: {sorted(self._free)} are.")
        self._free.remove(slot)
        self._owners[slot] = owner
        owner.seat(slot)

    def free(self, owner: RequestState) -> int:
        """Takes the slot back from its owner and returns its number. RuntimeError if it holds none."""
        slot = owner.slot
        if slot is None or self._owners.get(slot) is not owner:
            raise RuntimeError(f"Request {owner.id} holds no slot that could be freed.")
        del self._owners[slot]
        self._free.add(slot)
        owner.slot = None
        return slot

    def owners(self) -> dict[int, RequestState]:
        """The slots in use and their owners as of now, by slot; a copy."""
        return dict(sorted(self._owners.items()))

    def still_live(self, owners: dict[int, RequestState]) -> dict[int, RequestState]:
        """Those of earlier `owners` that hold the same slot still."""
        return {slot: owner for slot, owner in owners.items() if self._owners.get(slot) is owner}
