"""A transformers model without data, from a checkpoint's config and the names of its tensors."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from text_generation_server.engine import attention, experts
from text_generation_server.errors import UnsupportedModelError, one_line
from text_generation_server.model import own_attention, rotary
from text_generation_server.model.architectures import is_multimodal
from text_generation_server.model.checkpoint import raw_config
from text_generation_server.model.configuration import load_config
from text_generation_server.model.description import ModelSource, ModuleFacts
from text_generation_server.model.experts import ExpertTensors
from text_generation_server.model.fused import Fused, fused_layer
from text_generation_server.model.linear import linear_shape
from text_generation_server.model.quantisation import mxfp4
from text_generation_server.model.sharding import Parallel, parallel_layers
from text_generation_server.model.text_part import text_tensor


class BuiltModel:
    """A model whose parameters are on the meta device; its buffers that no checkpoint has are real.

    Attributes:
        model: in eval mode; its attention is `attention.attend`.
        sources: by the name of a parameter of `model`, the checkpoint's tensor.
        of_experts: by the name of a parameter of `model`, the checkpoint's tensors, where each expert has its own.
        modules: as they were before linear layers were replaced.
    """

    def __init__(self, source: ModelSource) -> None:
        """Raises UnsupportedModelError: tensors are missing, or are there that the model does not have."""
        attention.register()
        own_attention.register()
        experts.register()
        config = load_config(source.directory)
        if source.own_head:
            config.tie_word_embeddings = False
        self.model = empty_model(config, source)
        self.model.eval()
        # Some models look for padding in their input when they know its id: a read-back in every step.
        self.model.config.pad_token_id = None
        self.sources, self.of_experts = tensor_sources(self.model, source)
        fill_buffers(self.model)
        own_attention.adapt(self.model)
        rotary.adapt(self.model)
        parallel = self._parallel()
        self.modules = {
            name: ModuleFacts(
                type(module).__name__,
                linear_shape(module),
                parallel.get(name),
                self._fused(name, module) if source.shared else None,
            )
            for name, module in self.model.named_modules()
            if name
        }

    def parallel(self, layer: str) -> Parallel | None:
        """By what a layer is split over chips."""
        facts = self.modules.get(layer)
        return Parallel(facts.parallel) if facts and facts.parallel else None

    def _fused(self, name: str, module: torch.nn.Module) -> Fused | None:
        shape = linear_shape(module)
        return fused_layer(self.model.config, name, shape[1]) if shape is not None else None

    def _parallel(self) -> dict[str, str]:
        """By the name of a module, by what it is split over chips."""
        names = {module: name for name, module in self.model.named_modules()}
        linear = [name for module, name in names.items() if linear_shape(module) is not None]
        found = parallel_layers(self.model.tp_plan, linear)
        for module in (self.model.get_input_embeddings(), self.model.get_output_embeddings()):
            if module is not None:
                found[names[module]] = Parallel.VOCABULARY
        return {name: parallel.value for name, parallel in found.items()}


def empty_model(config: Any, source: ModelSource) -> Any:
    """The model on the meta device. Raises UnsupportedModelError: there is none of this configuration."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config,
                attn_implementation=implementation_for(config),
                experts_implementation=experts.IMPLEMENTATION,
                dtype=getattr(torch, source.dtype),
            )
    except Exception as error:
        # Each model takes its configuration at its word, and fails in its own way.
        raise UnsupportedModelError(
            f"config.json in {source.directory} makes no model: {type(error).__name__}: {one_line(error)}"
        ) from error


def implementation_for(config: Any) -> str:
    """The attention that a model is built with."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return attention.IMPLEMENTATION if own_attention.uses_interface(model_class) else "eager"


def tensor_sources(model: Any, source: ModelSource) -> tuple[dict[str, str], dict[str, ExpertTensors]]:
    """By parameter, the tensor of the checkpoint, with the renamings of transformers for old names; and the tensors of
    those parameters that transformers puts together of one or two for each expert.

    Raises UnsupportedModelError.
    """
    state: dict[str, Tensor] = model.state_dict()
    if source.tensors is None:
        tied = model._tied_weights_keys or {} if model.config.tie_word_embeddings else {}
        return {name: tied.get(name, name) for name in state}, {}
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    found: dict[str, str] = {}
    by_expert: dict[str, dict[tuple[int, int], str]] = {}
    exponents: set[str] = set()
    unexpected = []
    ignored = [
        *(model._keys_to_ignore_on_load_unexpected or []),
        r"rotary_emb\.inv_freq",
        r"\.attn\.(masked_)?bias$",
    ]
    multimodal = is_multimodal(raw_config(source.directory)["model_type"])
    for tensor in source.tensors:
        own = text_tensor(tensor) if multimodal else tensor
        if own is None:
            continue
        name, converted = rename_source_key(
            own, renamings, converters, base_model_prefix=model.base_model_prefix, meta_state_dict=state
        )
        if converted is not None:
            place = place_among_experts(own, converted, converters)
            if place is None or name not in state:
                raise UnsupportedModelError(
                    f"tensor {tensor} of {source.directory} would have to be taken apart or merged for "
                    f"{type(model).__name__}, which is not supported"
                )
            by_expert.setdefault(name, {})[place] = tensor
        elif name in state:
            found[name] = tensor
        elif name.endswith(mxfp4.VALUES) and name.removesuffix(mxfp4.VALUES) in state:
            found[name.removesuffix(mxfp4.VALUES)] = tensor
        elif name.endswith(mxfp4.EXPONENTS) and name.removesuffix(mxfp4.EXPONENTS) in state:
            exponents.add(name.removesuffix(mxfp4.EXPONENTS))
        elif not any(re.search(pattern, tensor) for pattern in ignored):
            unexpected.append(tensor)
    tied = dict(model._tied_weights_keys or {}) if model.config.tie_word_embeddings else {}
    for target, origin in tied.items():
        if target in state and origin in state:
            known = found.get(origin) or found.get(target)
            if known is not None:
                found[target] = found[origin] = known
    of_experts = {name: each for name, each in by_expert.items() if name not in found}
    complete = {name: in_turn(each, len(state[name])) for name, each in of_experts.items()}
    expected = {name for name, each in complete.items() if each is not None}
    halved = {
        name for name, tensor in found.items() if tensor.endswith(mxfp4.VALUES) and name not in exponents
    }
    missing = sorted(set(state) - (set(found) - halved) - expected)
    if missing:
        raise UnsupportedModelError(
            f"the weights in {source.directory} do not fit config.json: {len(missing)} tensors are missing, for "
            f"example {missing[0]}"
        )
    if unexpected:
        raise UnsupportedModelError(
            f"the weights in {source.directory} do not fit config.json: {type(model).__name__} has no place for "
            f"{len(unexpected)} of them, for example {unexpected[0]}"
        )
    return found, {name: each for name, each in complete.items() if each is not None}


def place_among_experts(tensor: str, pattern: str, converters: list[Any]) -> tuple[int, int] | None:
    """Of a tensor that transformers would merge: which of an expert's matrices it is, and of which expert.

    None if it is something else, or merged otherwise than one matrix after the other, and expert by expert.
    """
    number = re.search(r"\.experts\.(\d+)\.", tensor)
    for converter in converters:
        if pattern in converter.source_patterns:
            operations = [type(operation).__name__ for operation in converter.operations]
            if number is not None and operations in MERGES:
                return converter.source_patterns.index(pattern), int(number[1])
    return None


MERGES = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])
"""The operations by which transformers puts experts together that are read here, see `model.stacked`."""


def in_turn(places: dict[tuple[int, int], str], experts: int) -> ExpertTensors | None:
    """The tensors of each matrix in the order of the experts; None if one is missing."""
    halves = 1 + max(half for half, _ in places)
    wanted = [[(half, expert) for expert in range(experts)] for half in range(halves)]
    if set(places) != {place for half in wanted for place in half}:
        return None
    return tuple(tuple(places[place] for place in half) for half in wanted)


def fill_buffers(model: Any) -> None:
    """Computes the buffers that no checkpoint has, such as rotary frequencies, as transformers does after loading."""
    for parameter in model.parameters():
        parameter._is_hf_initialized = True
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name in module._non_persistent_buffers_set:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()
