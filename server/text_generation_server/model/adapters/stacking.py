"""All adapters of one linear layer laid side by side, so that one multiplication serves every row of a batch.

The ranks of all adapters form one axis, with an owner for each of its places: adapters of different ranks need
no padding, and adapters that leave a layer alone take no place in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from text_generation_server.model.adapters.reading import Adapter, refusal

ANOTHER = "Use an adapter that was trained on this model"

BASE = 0
"""The index of a row without an adapter. The adapters follow, in their order."""


@dataclass(frozen=True)
class LayerStack:
    """The updates of one linear layer.

    Attributes:
        down: [inputs, ranks], the model's dtype. This layout is the one that XLA on the CPU multiplies fast, as
            in `engine.weights`.
        up: [ranks, outputs], the same dtype.
        owners: [ranks] int32, the index of the adapter to which each place belongs.
    """

    down: Tensor
    up: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> "LayerStack":
        return LayerStack(self.down.to(device), self.up.to(device), self.owners.to(device))

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes + self.owners.nbytes


def stack_adapters(model: Any, adapters: Sequence[Adapter], dtype: torch.dtype) -> dict[str, LayerStack]:
    """The stacks of all layers that an adapter changes, by the layer's name.

    Args:
        model: on the host, as transformers loaded it.

    Raises:
        InvalidSettingError: an adapter does not fit the model.
    """
    for adapter in adapters:
        check_fit(model, adapter, dtype)
    changed = dict.fromkeys(name for adapter in adapters for name in adapter.updates)
    return {name: stack_layer(name, adapters, dtype) for name in changed}


def check_fit(model: Any, adapter: Adapter, dtype: torch.dtype) -> None:
    """InvalidSettingError if an adapter changes what the model does not have, or more than its linear layers."""
    layers = dict(model.named_modules())
    for name, update in adapter.updates.items():
        if name not in layers:
            raise refusal(adapter.name, f"{type(model).__name__} has no {name}. {ANOTHER}")
        shape = linear_shape(layers[name])
        if shape is None:
            raise refusal(
                adapter.name, f"{name} is of type {type(layers[name]).__name__}, not a linear layer"
            )
        given = update.down.shape[1], update.up.shape[0]
        if given != shape:
            raise refusal(
                adapter.name,
                f"{name} maps {shape[0]} values to {shape[1]}, and the adapter {given[0]} to {given[1]}. {ANOTHER}",
            )
        if not all(half.to(dtype).isfinite().all() for half in (update.down, update.up)):
            raise refusal(
                adapter.name, f"{name} has values beyond the range of {dtype}. Use --dtype bfloat16"
            )
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in adapter.weights.items():
        if name not in weights or not torch.equal(weight.to(dtype), weights[name]):
            raise refusal(
                adapter.name,
                f"it has a {name} of its own, which differs from the model's. Train it without modules_to_save, "
                "and without new tokens",
            )


def linear_shape(layer: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, GPT-2's transposed kind included; None for other layers."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return None


def stack_layer(name: str, adapters: Sequence[Adapter], dtype: torch.dtype) -> LayerStack:
    updates = [
        (index, adapter.updates[name])
        for index, adapter in enumerate(adapters, start=BASE + 1)
        if name in adapter.updates
    ]
    owners = [torch.full((update.down.shape[0],), index) for index, update in updates]
    return LayerStack(
        down=torch.cat([update.down for _, update in updates]).t().to(dtype).contiguous(),
        up=torch.cat([update.up for _, update in updates], dim=1).t().to(dtype).contiguous(),
        owners=torch.cat(owners).to(torch.int32),
    )
