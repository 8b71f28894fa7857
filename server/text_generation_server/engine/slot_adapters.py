"""Which adapter each slot uses, as the programs that run the model take it."""

import torch
from torch import Tensor

from text_generation_server.model.adapters.stacking import BASE


class SlotAdapters:
    """The index of each slot's adapter, on the host and on the device.

    Attributes:
        of_slots: what a decode takes beside its other inputs: one tensor, [slots] int32, or nothing if no adapter
            is loaded. It is sent when a slot gets another adapter, so that a decode sends nothing.
    """

    def __init__(self, names: tuple[str, ...], slots: int, device: torch.device) -> None:
        """`names` of the loaded adapters, in the order of their indices."""
        self._names = names
        self._device = device
        # Slots that are not live may have any adapter: no request reads their tokens.
        self._indices = [BASE] * slots
        self.of_slots = self._sent(self._indices)

    def of_prompt(self, adapter: str | None) -> list[Tensor]:
        """What a prefill takes: one tensor, [1] int32, or nothing. ValueError for a name that is not loaded."""
        return self._sent([self._index(adapter)])

    def assign(self, slot: int, adapter: str | None) -> None:
        """The slot uses this adapter in every decode from now on."""
        index = self._index(adapter)
        if self._indices[slot] != index:
            self._indices[slot] = index
            self.of_slots = self._sent(self._indices)

    def _index(self, adapter: str | None) -> int:
        if adapter is None:
            return BASE
        if adapter not in self._names:
            loaded = ", ".join(self._names) or "none"
            raise ValueError(f"no adapter is called {adapter!r}. Loaded: {loaded}")
        return BASE + 1 + self._names.index(adapter)

    def _sent(self, indices: list[int]) -> list[Tensor]:
        return [torch.tensor(indices, dtype=torch.int32).to(self._device)] if self._names else []
