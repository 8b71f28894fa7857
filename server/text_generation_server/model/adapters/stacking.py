"""All adapters of one linear layer laid side by side, so that one multiplication serves every row of a batch.

The ranks of all adapters form one axis, with an owner for each of its places: adapters of different ranks need
no padding, and adapters that leave a layer alone take no place in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.slot_adapters import BASE
from text_generation_server.model.adapters.reading import Adapter, refusal
from text_generation_server.model.checkpoint import Checkpoint
from text_generation_server.model.description import ModelDescription
from text_generation_server.model.fused import Fused

ANOTHER = "Use an adapter that was trained on this model"


@dataclass(frozen=True)
class LayerStack:
    """The updates of one linear layer, on the host.

    Attributes:
        down: [inputs, ranks], the model's dtype. This layout is the one that XLA on the CPU multiplies fast, as
            in `model.linear`.
        up: [ranks, outputs], the same dtype.
        owners: [ranks] int32, the index of the adapter to which each place belongs.
    """

    down: NDArray[Any]
    up: NDArray[Any]
    owners: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes + self.owners.nbytes

    def ordered(self, fused: Fused | None) -> "LayerStack":
        """With outputs that lie as those of the layer."""
        return self if fused is None else replace(self, up=np.ascontiguousarray(self.up[:, fused.order()]))

    def named(self, layer: str) -> dict[str, NDArray[Any]]:
        """By the names that the programs know them by."""
        return {f"lora.{layer}.{part}": getattr(self, part) for part in ("down", "up", "owners")}


def ranks(adapters: Sequence[Adapter]) -> dict[str, int]:
    """Of each linear layer that an adapter changes, the ranks of all adapters together."""
    changed = dict.fromkeys(name for adapter in adapters for name in adapter.updates)
    return {
        name: sum(adapter.updates[name].down.shape[0] for adapter in adapters if name in adapter.updates)
        for name in changed
    }


def stack_adapters(adapters: Sequence[Adapter], dtype: str) -> dict[str, LayerStack]:
    """The stacks of all layers that an adapter changes, by the layer's name. Call `check_fit` before."""
    return {name: stack_layer(name, adapters, dtype) for name in ranks(adapters)}


def check_fit(
    description: ModelDescription, checkpoint: Checkpoint, adapters: Sequence[Adapter], dtype: str
) -> None:
    """InvalidSettingError if an adapter changes what the model does not have, or more than its linear layers."""
    for adapter in adapters:
        check_updates(description, adapter, dtype)
        check_weights(description, checkpoint, adapter, dtype)


def check_updates(description: ModelDescription, adapter: Adapter, dtype: str) -> None:
    for name, update in adapter.updates.items():
        if "experts" in name.split("."):
            raise refusal(
                adapter.name, f"{name} are experts. Train it without them, on attention for example"
            )
        module = description.modules.get(name)
        if module is None:
            raise refusal(adapter.name, f"{description.model_class} has no {name}. {ANOTHER}")
        if module.linear is None:
            raise refusal(adapter.name, f"{name} is of type {module.type}, not a linear layer")
        given = update.down.shape[1], update.up.shape[0]
        if given != module.linear:
            inputs, outputs = module.linear
            raise refusal(
                adapter.name,
                f"{name} maps {inputs} values to {outputs}, and the adapter {given[0]} to {given[1]}. {ANOTHER}",
            )
        with np.errstate(over="ignore"):
            halves = [half.astype(dtype).astype(np.float32) for half in (update.down, update.up)]
        if not all(np.isfinite(half).all() for half in halves):
            raise refusal(
                adapter.name, f"{name} has values beyond the range of {dtype}. Use --dtype bfloat16"
            )


def check_weights(
    description: ModelDescription, checkpoint: Checkpoint, adapter: Adapter, dtype: str
) -> None:
    """Copies of the model's own weights, which PEFT saves with some adapters, must be what they are copies of."""
    with checkpoint.opened() as tensors:
        for name, values in adapter.weights.items():
            source = description.sources.get(name)
            if source is None or not np.array_equal(values.astype(dtype), tensors.read(source).astype(dtype)):
                raise refusal(
                    adapter.name,
                    f"it has a {name} of its own, which differs from the model's. Train it without modules_to_save, "
                    "and without new tokens",
                )


def stack_layer(name: str, adapters: Sequence[Adapter], dtype: str) -> LayerStack:
    updates = [
        (index, adapter.updates[name])
        for index, adapter in enumerate(adapters, start=BASE + 1)
        if name in adapter.updates
    ]
    owners = [np.full(update.down.shape[0], index, dtype=np.int32) for index, update in updates]
    return LayerStack(
        down=np.ascontiguousarray(np.concatenate([update.down for _, update in updates]).T, dtype=dtype),
        up=np.ascontiguousarray(np.concatenate([update.up for _, update in updates], axis=1).T, dtype=dtype),
        owners=np.concatenate(owners),
    )
