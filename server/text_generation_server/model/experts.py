"""Lays out the experts of a model without data for a device: one parameter for each matrix, instead of two in one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import _default_apply_gate

from text_generation_server.engine.experts import ExpertsLayout, Gating
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.description import WeightSpec
from text_generation_server.model.quantisation import mxfp4
from text_generation_server.model.quantisation.scheme import INT8, Part, Scheme
from text_generation_server.model.stacked import Stacked

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""By `hidden_act` of a configuration, the name of `Gating.activation`."""


ExpertTensors = tuple[tuple[str, ...], ...]
"""Tensors of a checkpoint: for each of the matrices that are one parameter in transformers, one for each expert."""


@dataclass(frozen=True)
class ExpertFacts:
    """A parameter of experts.

    Attributes:
        weight: the name in transformers' model of the parameter of which it is a part.
        dimension, outputs, first, step: see `model.stacked.Stacked`.
        half: of the tensors that a checkpoint has for each expert, in the order in which transformers puts them
            together; 0 where there is one.
        transposed: `weight` has the matrices the other way round.
        inputs_first: it has its matrices [inputs, outputs] on the device.
        split: the dimensions that may be split over chips.
        part: of matrices in int8, "weight" or "scales".
    """

    weight: str
    dimension: int
    outputs: int
    transposed: bool
    inputs_first: bool
    split: tuple[int, ...]
    first: int = 0
    step: int = 1
    half: int = 0
    part: Part | None = None

    def spec(
        self,
        shape: tuple[int, ...],
        dtype: str,
        sources: Mapping[str, str],
        of_experts: Mapping[str, ExpertTensors],
        stored: Collection[str],
    ) -> WeightSpec:
        """Where it comes from.

        Args:
            shape, dtype: on the device.
            sources, of_experts: as `BuiltModel` has them.
            stored: the tensors of the checkpoint that come quantised.

        Raises:
            UnsupportedModelError: it comes quantised.
        """
        if self.weight in of_experts:
            # The weights of linear layers, outputs first.
            tensors = of_experts[self.weight][self.half]
            outputs = shape[-1] if self.inputs_first or self.part == "scales" else shape[1]
            stacked, transposed = Stacked(tensors, 0, outputs), self.inputs_first
        elif (source := sources[self.weight]).endswith(mxfp4.VALUES):
            exponents = source.removesuffix(mxfp4.VALUES) + mxfp4.EXPONENTS
            stacked = Stacked((source,), 0, self.outputs, self.first, self.step, exponents)
            transposed = self.inputs_first
        else:
            stacked = Stacked((source,), self.dimension, self.outputs, self.first, self.step)
            transposed = self.transposed
        quantised = next((tensor for tensor in stacked.tensors if tensor in stored), None)
        if quantised is not None:
            raise UnsupportedModelError(
                f"{quantised}, an expert, comes quantised, which is not supported. The checkpoint in bfloat16 works, "
                "also with --quantize int8"
            )
        return WeightSpec(
            stacked.tensors[0], shape, dtype, transposed, self.split, self.part, stacked=stacked
        )


def is_experts(module: nn.Module) -> bool:
    """Whether a module computes experts by transformers' registered function."""
    return all(hasattr(module, name) for name in ("is_transposed", "is_concatenated", "has_gate", "has_bias"))


def lay_out(model: nn.Module, inputs_first: bool, made: Scheme | None) -> dict[int, ExpertFacts]:
    """Replaces the parameters of all experts, and says what the new ones are, by the id of each.

    Args:
        inputs_first: as linear layers do that are stored transposed, see `model.linear`.
        made: in what matrices are kept; None: in the dtype of the model.

    Raises:
        UnsupportedModelError: experts that are computed otherwise than `engine.experts` does, or cannot be kept so.
    """
    facts: dict[int, ExpertFacts] = {}
    for name, module in model.named_modules():
        if not is_experts(module):
            continue
        if made is not None and made != INT8:
            raise UnsupportedModelError(
                f"{type(model).__name__} has experts, which --quantize keeps in int8 only: use --quantize int8, or "
                "leave it out"
            )
        new = NewParameters(name, module, inputs_first, made is not None)
        new.put_all()
        module.layout = ExpertsLayout(tuple(new.names), inputs_first, gating_of(name, module))
        facts |= new.facts
    return facts


class NewParameters:
    """Puts the parameters of one module in the place of those that it has.

    Attributes:
        names: of the new ones.
        facts: by the id of each.
    """

    def __init__(self, name: str, module: Any, inputs_first: bool, in_int8: bool) -> None:
        self.names: list[str] = []
        self.facts: dict[int, ExpertFacts] = {}
        self._name = name
        self._module = module
        self._inputs_first = inputs_first
        self._in_int8 = in_int8
        self._own_inputs_first = bool(module.is_transposed)

    def put_all(self) -> None:
        module = self._module
        shape, dtype = tuple(module.down_proj.shape), module.down_proj.dtype
        count, width, hidden = shape if self._own_inputs_first else (shape[0], shape[2], shape[1])
        for old in ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"):
            if hasattr(module, old):
                delattr(module, old)
        for half, part in enumerate(("gate", "up")):
            places: dict[str, Any] = {"outputs": 2 * width, "half": half}
            places |= {"first": half * width} if module.is_concatenated else {"first": half, "step": 2}
            self._matrix(
                part, (count, hidden, width), "gate_up_proj", dtype, self._inputs_first, (1,), places
            )
        self._matrix("down", (count, width, hidden), "down_proj", dtype, True, (), {"outputs": hidden})

    def _matrix(
        self,
        part: str,
        shape: tuple[int, int, int],
        old: str,
        dtype: torch.dtype,
        inputs_first: bool,
        split: tuple[int, ...],
        places: dict[str, Any],
    ) -> None:
        """A matrix for each expert, and what it has for each output.

        Args:
            shape: experts, inputs, outputs.
            inputs_first: it lies so on the device.
            split: of what there is for each output, [experts, outputs].
        """
        count, inputs, outputs = shape
        dimension = 1 if self._own_inputs_first else 0
        of_matrix: dict[str, Any] = {
            "dimension": dimension,
            "transposed": inputs_first != self._own_inputs_first,
            "inputs_first": inputs_first,
            **places,
        }
        # Split by the width: outputs of gate and up, inputs of down.
        by_width = (2,) if split and inputs_first else (1,)
        lying = (count, inputs, outputs) if inputs_first else (count, outputs, inputs)
        part_of: Part | None = "weight" if self._in_int8 else None
        kept = torch.int8 if self._in_int8 else dtype
        self._put(part, lying, old, kept, split=by_width, part=part_of, **of_matrix)
        if self._in_int8:
            name = f"{part}_scales"
            self._put(name, (count, outputs), old, torch.float32, split=split, part="scales", **of_matrix)
        if self._module.has_bias:
            name, of_bias = f"{part}_bias", {"dimension": 0, "transposed": False, "inputs_first": False}
            self._put(name, (count, outputs), f"{old}_bias", dtype, split=split, **of_bias, **places)

    def _put(self, name: str, shape: tuple[int, ...], old: str, dtype: torch.dtype, **facts: Any) -> None:
        new = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        self._module.register_parameter(name, new)
        self.names.append(name)
        self.facts[id(new)] = ExpertFacts(f"{self._name}.{old}", **facts)


def gating_of(name: str, module: Any) -> Gating:
    """What an expert makes of the outputs of its first two matrices. Raises UnsupportedModelError."""

    def refusal(what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{name}, a {type(module).__name__}, cannot be served: its experts have {what}"
        )

    if not module.has_gate:
        raise refusal("no gate")
    if getattr(module, "has_post_expert_norm", False):
        raise refusal("a norm behind them")
    if type(module)._apply_gate is _default_apply_gate:
        activation = str(module.config.hidden_act)
        if activation not in ACTIVATIONS:
            raise refusal(f"hidden_act = {activation!r}, which is none of {', '.join(ACTIVATIONS)}")
        return Gating(ACTIVATIONS[activation])
    if type(module).__name__ == "GptOssExperts":
        return Gating("clamped", float(module.alpha), float(module.limit))
    raise refusal("a gate of their own")
