"""A model on placeholders: what programs are recorded with, and the description that is found on the way."""

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from text_generation_server.engine import attention, catalogue
from text_generation_server.engine.cache import probing_cache
from text_generation_server.engine.state import HeadsAndDim
from text_generation_server.errors import UnsupportedModelError, one_line
from text_generation_server.lowering import recording
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.model.building import BuiltModel
from text_generation_server.model.configuration import positions
from text_generation_server.model.description import ModelDescription, ModelSource, WeightSpec
from text_generation_server.model.experts import ExpertFacts, lay_out
from text_generation_server.model.fused import Fused
from text_generation_server.model.linear import store_transposed
from text_generation_server.model.quantisation.linear import PartFacts, quantise
from text_generation_server.model.quantisation.scheme import Scheme
from text_generation_server.model.rotary import rotary_lengths
from text_generation_server.model.served import AdapterTensors, ServedModel
from text_generation_server.model.sharding import quantised_dimensions, split_dimensions


class PlacedModel:
    """Records the programs of one model.

    Attributes:
        description: what loading needs to know of it.
    """

    def __init__(self, source: ModelSource) -> None:
        """Raises UnsupportedModelError: see `model.building`, or the model needs what attention here cannot do."""
        built = BuiltModel(source)
        self._weights = recording.Placeholders()
        parts = quantise(built.model, partial(scheme_of, source, built), getattr(torch, source.dtype))
        originals = store_transposed(built.model) if source.transposed else {}
        experts = lay_out(built.model, source.transposed, source.made)
        weights = self._place(built, originals, parts, experts, source.stored)
        stacks = {
            layer: self._adapter(layer, built.modules[layer].linear, rank, source.dtype)
            for layer, rank in source.adapter_ranks.items()
            # Others are refused by `adapters.stacking.check_fit`, which has the description only.
            if layer in built.modules
        }
        # Before the adapters' hooks, which need to know whose rows they see.
        layers, vocabulary, windows = probe(built.model)
        self._model = ServedModel(built.model, stacks, built.modules)
        config = built.model.config
        self.description = ModelDescription(
            config.model_type,
            type(built.model).__name__,
            positions(config),
            layers,
            vocabulary,
            weights,
            built.modules,
            built.sources,
            rotary_lengths(config),
            max(windows.values(), default=0),
            tuple(sorted(windows)),
        )

    def lower(self, options: ProgramOptions, names: Iterable[str]) -> Iterator[LoweredProgram]:
        """Records programs of `engine.catalogue` one after the other."""
        for name in names:
            program = catalogue.build(name, self._model, options.shape, options.strength)
            yield recording.record(program, self._weights, exact_float32=options.exact_float32)

    def _place(
        self,
        built: BuiltModel,
        originals: dict[int, torch.Tensor],
        parts: dict[int, PartFacts],
        experts: dict[int, ExpertFacts],
        stored: Collection[str],
    ) -> dict[str, WeightSpec]:
        """Replaces parameters and persistent buffers by placeholders, and moves the other buffers to the device."""
        names = {id(tensor): name for name, tensor in named_tensors(built.model)}
        shared: dict[int, Any] = {}
        constants: dict[tuple[Any, ...], torch.Tensor] = {}
        weights: dict[str, WeightSpec] = {}
        for layer, module in built.model.named_modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is None:
                        continue
                    if not tensor.is_meta:
                        # Rotary tables, which each layer of some models has: one for all, or a program brings them all.
                        content = (
                            tensor.shape,
                            tensor.dtype,
                            tensor.reshape(-1).view(torch.uint8).numpy().tobytes(),
                        )
                        if content not in constants:
                            constants[content] = tensor.to(recording.device())
                        tensors[key] = constants[content]
                        continue
                    if id(tensor) not in shared:
                        name = names[id(tensor)]
                        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
                        parallel = built.parallel(layer)
                        if (part := parts.get(id(tensor))) is not None:
                            dtype = part.dtype
                            split = quantised_dimensions(parallel, part.scheme, part.part)
                            source, turned, kind = built.sources[part.weight], part.outputs_first, part.part
                            spec = WeightSpec(
                                source, shape, dtype, turned, split, kind, fused_of(built, layer, split)
                            )
                        elif (expert := experts.get(id(tensor))) is not None:
                            spec = expert.spec(shape, dtype, built.sources, built.of_experts, stored)
                        else:
                            split = split_dimensions(parallel, type(module).__name__, key)
                            source, turned = built.sources[name], id(tensor) in originals
                            spec = WeightSpec(
                                source, shape, dtype, turned, split, None, fused_of(built, layer, split)
                            )
                        weights[name] = spec
                        shared[id(tensor)] = self._weights.make(name, shape, tensor.dtype, dtype)
                    placed = shared[id(tensor)]
                    if tensors is module._parameters:
                        # Wrapping in a parameter makes another tensor of the same data: its id is what programs meet.
                        placed = self._weights.wrapped(placed, names[id(tensor)])
                    tensors[key] = placed
        return weights

    def _adapter(self, layer: str, linear: tuple[int, int] | None, rank: int, dtype: str) -> AdapterTensors:
        inputs, outputs = linear or (0, 0)
        kind = getattr(torch, dtype)
        return AdapterTensors(
            self._weights.make(f"lora.{layer}.down", (inputs, rank), kind),
            self._weights.make(f"lora.{layer}.up", (rank, outputs), kind),
            self._weights.make(f"lora.{layer}.owners", (rank,), torch.int32),
        )


def scheme_of(source: ModelSource, built: BuiltModel, layer: str) -> Scheme | None:
    """In what a linear layer is kept; None: in the dtype of the model."""
    return source.stored.get(built.sources[f"{layer}.weight"], source.made)


def fused_of(built: BuiltModel, layer: str, split: tuple[int, ...]) -> Fused | None:
    """In which order the outputs of a layer lie that is split; None: in their own."""
    return built.modules[layer].fused if split and layer in built.modules else None


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, each by the first of its names."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def probe(model: Any) -> tuple[tuple[tuple[HeadsAndDim, HeadsAndDim], ...], int, dict[int, int]]:
    """Calls the model with one token, to learn the cache's shape, the number of logits, and the windows by layer.

    It also finds models whose attention asks for what `attention.attend` does not do. Raises UnsupportedModelError.
    """
    layers = model.config.num_hidden_layers
    token = recording.Placeholders().make("token", (1, 1), torch.int32)
    cache = probing_cache(token, layers)
    try:
        with recording.on_placeholders(model), attention.finding_windows() as found:
            logits = model(input_ids=token, position_ids=token, past_key_values=cache, use_cache=True).logits
            shapes = tuple((heads_and_dim(layer.keys), heads_and_dim(layer.values)) for layer in cache.layers)
            return shapes, int(logits.shape[-1]), found.layers
    except NotImplementedError as error:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be served: {error}") from error
    except UnsupportedModelError:
        raise
    except (RuntimeError, ValueError) as error:
        # Sizes that do not fit each other, which not every configuration of transformers finds by itself.
        raise UnsupportedModelError(
            f"config.json contradicts itself: {type(model).__name__} cannot be called: {one_line(error)}"
        ) from error


def heads_and_dim(written: torch.Tensor) -> HeadsAndDim:
    return int(written.shape[2]), int(written.shape[3])
