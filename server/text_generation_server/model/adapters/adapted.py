"""A model with adapters, called like the model, with the index of each row's adapter beside its inputs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from text_generation_server.model.adapters.stacking import LayerStack


class AdaptedModel(nn.Module):
    """The model itself stays what it is: hooks add each row's update to the outputs of its linear layers.

    Hooks, and not layers in place of those of the model, because names, tied weights and the layouts of
    `engine.weights` stay untouched that way.
    """

    def __init__(self, model: nn.Module, stacks: Mapping[str, LayerStack]) -> None:
        """`model` and `stacks` are on the device already, and no layer of the model is replaced afterwards."""
        super().__init__()
        self.model = model
        self._indices: Tensor | None = None
        for name, stack in stacks.items():
            model.get_submodule(name).register_forward_hook(partial(self._add_updates, stack))

    def forward(self, *, adapters: Tensor, **inputs: Any) -> Any:
        """Takes `adapters`, [rows] int32, and what the model takes; returns what the model returns."""
        self._indices = adapters
        try:
            return self.model(**inputs)
        finally:
            self._indices = None

    def _add_updates(
        self, stack: LayerStack, layer: nn.Module, arguments: tuple[Tensor, ...], outputs: Tensor
    ) -> Tensor:
        """Adds to `outputs` [rows, tokens, outputs] what the rows' adapters make of the inputs [rows, tokens, inputs].

        All adapters are applied to all rows, and what does not belong to a row is cut out between the two
        multiplications: for the few adapters that fit on a device this moves fewer bytes than a copy of the
        adapter's weights for each row (docs/adapters.md).
        """
        assert self._indices is not None, "a model with adapters is called through AdaptedModel"
        (inputs,) = arguments
        own = self._indices.view(-1, 1, 1) == stack.owners
        inner = torch.matmul(inputs, stack.down)
        inner = torch.where(own, inner, torch.zeros((), dtype=inner.dtype, device=inner.device))
        return outputs + torch.matmul(inner, stack.up)
