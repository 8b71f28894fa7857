"""Which adapter each slot uses."""

BASE = 0
"""The index of a slot without an adapter. The adapters follow, in their order."""


class SlotAdapters:
    """The index of each slot's adapter.

    Attributes:
        of_slots: by slot; slots that are not live may have any adapter, since no request reads their tokens.
    """

    def __init__(self, names: tuple[str, ...], slots: int) -> None:
        """`names` of the loaded adapters, in the order of their indices."""
        self._names = names
        self.of_slots = [BASE] * slots

    def index(self, adapter: str | None) -> int:
        """ValueError for a name that is not loaded; None is the base model."""
        if adapter is None:
            return BASE
        if adapter not in self._names:
            loaded = ", ".join(self._names) or "none"
            raise ValueError(f"There is no adapter {adapter!r}. Loaded: {loaded}.")
        return BASE + 1 + self._names.index(adapter)

    def assign(self, slot: int, index: int) -> bool:
        """The slot uses this adapter from now on. Returns whether that is a change."""
        changed = self.of_slots[slot] != index
        self.of_slots[slot] = index
        return changed
