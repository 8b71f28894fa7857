"""Which dimensions of a model's weights are split over chips, as data: the model itself knows nothing of it.

Megatron's scheme (Shoeybi et al., 2019): of two layers that follow each other the first is split by its outputs and the
second by its inputs, so that the chips meet once, after the second. transformers says for most models which layer is
which (`base_model_tp_plan`); for the others the table of names below does. Embedding and head are split by vocabulary.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum

from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.sharding import CacheSplit
from text_generation_server.engine.state import HeadsAndDim
from text_generation_server.model.quantisation.scheme import Part, Scheme


class Parallel(Enum):
    """By what a layer is split."""

    OUTPUTS = "outputs"
    INPUTS = "inputs"
    VOCABULARY = "vocabulary"


STYLES = (("colwise", Parallel.OUTPUTS), ("rowwise", Parallel.INPUTS))
"""Beginnings of transformers' names. That it gathers outputs or splits inputs after some layers is not needed here:
the partitioner does so where a model wants it."""

NAMES = {
    Parallel.OUTPUTS: (
        *("c_attn", "c_fc", "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv"),
        *("fc1", "fc_in", "dense_h_to_4h", "gate_proj", "up_proj"),
    ),
    Parallel.INPUTS: ("c_proj", "out_proj", "o_proj", "dense", "fc2", "fc_out", "dense_4h_to_h", "down_proj"),
}
"""Last parts of the names of layers, for models for which transformers has no plan: GPT-2 and others of its age."""

LINEAR_DIMENSIONS = {
    # Outputs and inputs of the weight, by the class of the layer.
    "Linear": (0, 1),
    "TransposedLinear": (1, 0),
    "Conv1D": (1, 0),
    "QuantisedLinear": (1, 0),
}
EMBEDDING_DIMENSIONS = {"TransposedEmbedding": (1, 0)}
"""Vocabulary and width of the table; of all other classes (0, 1)."""


def parallel_layers(plan: Mapping[str, str], names: Iterable[str]) -> dict[str, Parallel]:
    """Of each linear layer that is split, by what; `plan` is transformers' plan of the whole model."""
    patterns = [(re.compile(re.escape(key).replace(r"\*", r"\d+")), style) for key, style in plan.items()]
    # Some plans have the experts and nothing else (Granite), or not the MLP beside them (Qwen 2).
    has_experts = any("experts" in key for key in plan)
    found = {}
    for name in names:
        style = next((style for pattern, style in patterns if pattern.fullmatch(name)), None)
        if style is None and (not plan or has_experts):
            last = name.rpartition(".")[2]
            parallel = next((each for each, lasts in NAMES.items() if last in lasts), None)
        else:
            parallel = next((each for start, each in STYLES if style and style.startswith(start)), None)
        if parallel is not None:
            found[name] = parallel
    return found


def feeds_attention(name: str) -> bool:
    """Whether a layer of that name stands before or after attention, and not in an MLP."""
    return any("att" in part for part in name.split(".")[:-1])


def split_dimensions(parallel: Parallel | None, layer_class: str, tensor: str) -> tuple[int, ...]:
    """Which dimensions of a tensor of a layer may be split, the best first.

    Where the chips do not divide the better one (a vocabulary of 50257), the other is taken: the result is the same,
    and costs one more meeting of the chips.

    Args:
        layer_class: the name of its class.
        tensor: its name in the layer, for example "weight".
    """
    if parallel is Parallel.VOCABULARY and layer_class not in LINEAR_DIMENSIONS:
        return EMBEDDING_DIMENSIONS.get(layer_class, (0, 1))
    if parallel is None or layer_class not in LINEAR_DIMENSIONS:
        return ()
    outputs, inputs = LINEAR_DIMENSIONS[layer_class]
    if tensor == "bias":
        return () if parallel is Parallel.INPUTS else (0,)
    return (inputs, outputs) if parallel is Parallel.INPUTS else (outputs, inputs)


def quantised_dimensions(parallel: Parallel | None, scheme: Scheme, part: Part) -> tuple[int, ...]:
    """The same of a part of the weight of a layer in fewer bits; groups of inputs stay whole."""
    if parallel not in (Parallel.OUTPUTS, Parallel.INPUTS) or part == "order":
        return ()
    outputs = len(scheme.shapes(1, 1)[part]) - 1
    if parallel is Parallel.OUTPUTS:
        return (outputs, 0)
    # One scale for all inputs is needed by each chip.
    return () if part == "scales" and scheme.group is None else (0, outputs)


def adapter_dimensions(parallel: Parallel | None, part: str) -> tuple[int, ...]:
    """The same of the stack of adapters of a layer: "down" [inputs, ranks], "up" [ranks, outputs] and "owners"."""
    if (parallel, part) == (Parallel.OUTPUTS, "up"):
        return (1,)
    return (0,) if (parallel, part) == (Parallel.INPUTS, "down") else ()


def cache_split(
    layers: Iterable[tuple[HeadsAndDim, HeadsAndDim]], layout: CacheLayout, chips: int
) -> CacheSplit:
    """By heads if each chip gets whole ones of each layer, and none lie side by side."""
    arrays = [each for layer in layers for each in layer]
    whole = all(heads % chips == 0 and layout.shape(heads, size) == (heads, size) for heads, size in arrays)
    return CacheSplit.HEADS if whole else CacheSplit.SLOTS
