"""Rotary embeddings whose frequencies depend on length: by the length of each row's own request.

transformers takes the longest position of the batch for the length of all rows, writes the frequencies of that length
into a buffer, and multiplies positions with them. Here hooks put frequencies of each token there instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from text_generation_server.engine.rotary import RotaryLengths
from text_generation_server.errors import UnsupportedModelError

BY_LENGTH = ("dynamic", "longrope")
"""The kinds whose frequencies depend on length, as configurations name them."""

RECOMPUTED = ("phi3", "phimoe")
"""Model types of which transformers computes a request again that grows beyond the original length: see
`Phi3ForCausalLM.prepare_inputs_for_generation`."""

Keywords = dict[str, Any]

_prompts: ContextVar[Tensor | None] = ContextVar("prompts", default=None)


@contextmanager
def of_prompts(tokens: Tensor | None) -> Iterator[None]:
    """Within, the model is called on pieces of prompts; `tokens`: [rows] int32, of each row's whole prompt."""
    token = _prompts.set(tokens)
    try:
        yield
    finally:
        _prompts.reset(token)


def rotary_kinds(config: Any) -> list[dict[str, Any]]:
    """The parameters of each rotary embedding; models with two kinds of layers have one for each."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def rotary_lengths(config: Any) -> RotaryLengths | None:
    """How the frequencies of a model depend on length; None if they do not.

    Raises UnsupportedModelError if those of some layers depend on it otherwise than those of others.
    """
    found = {
        RotaryLengths(
            original_length(config, parameters),
            each=parameters["rope_type"] == "dynamic",
            recomputed=parameters["rope_type"] == "longrope" and config.model_type in RECOMPUTED,
        )
        for parameters in rotary_kinds(config)
        if parameters.get("rope_type") in BY_LENGTH
    }
    if len(found) > 1:
        raise UnsupportedModelError(
            f"rope_parameters is {config.rope_parameters}: of rotary embeddings that depend on length, those of all "
            "layers must change at the same length and be of one rope_type"
        )
    return next(iter(found), None)


def original_length(config: Any, parameters: dict[str, Any]) -> int:
    """Up to which frequencies are those of the configuration. transformers takes no other value for `dynamic`."""
    if parameters["rope_type"] == "dynamic":
        return int(config.max_position_embeddings)
    return int(parameters["original_max_position_embeddings"])


def adapt(model: Any) -> None:
    """Lets rotary embeddings go by each row. The model's buffers are there."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, dict):
            for layer_type, kind in kinds.items():
                if kind in BY_LENGTH:
                    adapt_kind(module, kind, layer_type)
                    # So that the module does not look for the longest position of all rows.
                    kinds[layer_type] = "default"
        elif kinds in BY_LENGTH:
            adapt_kind(module, kinds, None)
            module.rope_type = "default"


def adapt_kind(module: Any, kind: str, layer_type: str | None) -> None:
    """Of one kind of layers; None: of all."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    if kind == "longrope":
        beyond = original_length(module.config, parameters_of(module, layer_type)) + 1
        frequencies = initial(kind, module.config, beyond, layer_type)
        module.register_buffer(f"{prefix}long_inv_freq", frequencies, persistent=False)
    module.register_forward_pre_hook(partial(set_frequencies, kind, layer_type), with_kwargs=True)


def set_frequencies(
    kind: str, layer_type: str | None, module: Any, arguments: tuple[Any, ...], keywords: Keywords
) -> None:
    """Makes `inv_freq` one for each token, [rows, tokens, frequencies], which positions are multiplied with."""
    named = dict(zip(("x", "position_ids", "layer_type"), arguments, strict=False)) | keywords
    if named.get("layer_type") != layer_type:
        return
    lengths = lengths_at(named["position_ids"]).unsqueeze(-1)
    prefix = "" if layer_type is None else f"{layer_type}_"
    if kind == "longrope":
        is_long = lengths > original_length(module.config, parameters_of(module, layer_type))
        short = getattr(module, f"{prefix}original_inv_freq")
        frequencies = torch.where(is_long, getattr(module, f"{prefix}long_inv_freq"), short)
    else:
        frequencies = initial(kind, module.config, lengths, layer_type)
    setattr(module, f"{prefix}inv_freq", frequencies)


def lengths_at(positions: Tensor) -> Tensor:
    """The length of each token's request when transformers would compute it, [..., rows, tokens] int32."""
    lengths = positions + 1
    prompts = _prompts.get()
    return lengths if prompts is None else torch.maximum(lengths, prompts.unsqueeze(1))


def parameters_of(module: Any, layer_type: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = module.config.rope_parameters
    return parameters if layer_type is None else parameters[layer_type]


def initial(kind: str, config: Any, length: int | Tensor, layer_type: str | None) -> Tensor:
    """The frequencies of requests of that length, or of those lengths [..., 1], by transformers."""
    device = length.device if isinstance(length, Tensor) else torch.device("cpu")
    frequencies: Tensor = ROPE_INIT_FUNCTIONS[kind](config, device, seq_len=length, layer_type=layer_type)[0]
    return frequencies
