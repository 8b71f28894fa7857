"""A model as the programs call it: transformers' own, with the index of each row's adapter beside its inputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from text_generation_server.engine.marks import MIXED, PROJECTED, mark
from text_generation_server.model.description import ModuleFacts
from text_generation_server.model.fused import Fused
from text_generation_server.model.rotary import of_prompts
from text_generation_server.model.sharding import Parallel, feeds_attention


def mark_attention(model: nn.Module, modules: Mapping[str, ModuleFacts]) -> None:
    """Marks what goes into attention and what comes out of it, see `engine.marks`."""
    for name, facts in modules.items():
        if feeds_attention(name):
            layer = model.get_submodule(name)
            if facts.parallel == Parallel.OUTPUTS.value:
                layer.register_forward_hook(lambda _, arguments, outputs: mark(outputs, PROJECTED))
            elif facts.parallel == Parallel.INPUTS.value:
                layer.register_forward_pre_hook(lambda _, arguments: (mark(arguments[0], MIXED),))


def order_outputs(model: nn.Module, modules: Mapping[str, ModuleFacts]) -> None:
    """Puts what fused layers return in the order that the model expects, see `model.fused`."""

    def in_order(fused: Fused, layer: nn.Module, arguments: tuple[Tensor, ...], outputs: Tensor) -> Any:
        return fused.in_order(outputs, torch.cat)

    for name, facts in modules.items():
        if facts.fused is not None:
            model.get_submodule(name).register_forward_hook(partial(in_order, facts.fused))


@dataclass(frozen=True)
class AdapterTensors:
    """All adapters of one linear layer, see `model.adapters.stacking`: [inputs, ranks], [ranks, outputs], [ranks]."""

    down: Tensor
    up: Tensor
    owners: Tensor


@dataclass
class HiddenStates(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """What a decoder returns: models look into it for what they return beside the logits."""

    router_logits: Any = None


def decoder_of(model: Any) -> Any:
    """The part of a model that makes hidden states of tokens, which its head turns into logits."""
    decoder = model.get_decoder()
    # Llama 4 calls its decoder otherwise than transformers expects.
    return model.model if decoder is model else decoder


class ServedModel:
    """The model itself stays what it is: hooks add each row's update to the outputs of its linear layers.

    Hooks, and not layers in place of those of the model, because names, tied weights and the layouts of
    `model.linear` stay untouched that way.
    """

    def __init__(
        self, model: Any, stacks: Mapping[str, AdapterTensors], modules: Mapping[str, ModuleFacts]
    ) -> None:
        """`modules`: of the model, by name. No layer of it is replaced afterwards."""
        self._model = model
        self._indices: Tensor | None = None
        for name, stack in stacks.items():
            model.get_submodule(name).register_forward_hook(partial(self._add_updates, stack))
        mark_attention(model, modules)
        # After the adapters, whose outputs lie as those of the layer.
        order_outputs(model, modules)

    def __call__(self, *, adapters: Tensor | None = None, **inputs: Any) -> Any:
        """Takes `adapters`, [rows] int32, and what the model takes; returns what the model returns."""
        with self._rows_of(adapters):
            return self._model(**inputs)

    def base_model(
        self, *, adapters: Tensor | None = None, prompts: Tensor | None = None, **inputs: Any
    ) -> Any:
        """The model without its head on pieces of prompts: `last_hidden_state` [rows, tokens, hidden].

        `prompts`: [rows] int32, see `rotary.of_prompts`; None if the model does not ask.
        """
        with self._rows_of(adapters), of_prompts(prompts):
            return decoder_of(self._model)(**inputs)

    def logits_of(self, hidden: Tensor, *, adapters: Tensor | None = None) -> Tensor:
        """The logits of hidden states [rows, tokens, hidden], with all that a model does after its head."""
        base = decoder_of(self._model)
        own = base.forward
        output = HiddenStates(last_hidden_state=hidden)
        base.forward = lambda *_, **__: output
        try:
            ids = torch.zeros(hidden.shape[:2], dtype=torch.int32, device=hidden.device)
            with self._rows_of(adapters):
                logits: Tensor = self._model(input_ids=ids).logits
            return logits
        finally:
            base.forward = own

    @contextmanager
    def _rows_of(self, adapters: Tensor | None) -> Iterator[None]:
        self._indices = adapters
        try:
            yield
        finally:
            self._indices = None

    def _add_updates(
        self, stack: AdapterTensors, layer: nn.Module, arguments: tuple[Tensor, ...], outputs: Tensor
    ) -> Tensor:
        """Adds to `outputs` [rows, tokens, outputs] what the rows' adapters make of the inputs [rows, tokens, inputs].

        All adapters are applied to all rows, and what does not belong to a row is cut out between the two
        multiplications: for the few adapters that fit on a device this moves fewer bytes than a copy of the
        adapter's weights for each row (docs/adapters.md).
        """
        assert self._indices is not None, "a model with adapters is called with the adapter of each row"
        (inputs,) = arguments
        own = self._indices.view(-1, 1, 1) == stack.owners
        inner = torch.matmul(inputs, stack.down)
        inner = torch.where(own, inner, torch.zeros((), dtype=inner.dtype, device=inner.device))
        return outputs + torch.matmul(inner, stack.up)
