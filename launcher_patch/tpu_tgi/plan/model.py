"""A model as far as config.json and the headers of its weights tell: of a directory, or in small reads of the hub."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from text_generation_server.errors import InvalidSettingError, one_line
from text_generation_server.model.checkpoint import HEADS, Checkpoint, TensorHeaders, raw_config
from text_generation_server.model.configuration import load_config
from text_generation_server.model.description import ModelSource
from text_generation_server.model.quantisation.choice import scheme_to_make
from text_generation_server.model.quantisation.stored import stored_layers

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
"""What config.json may call the number of layers."""


def headers_of(model_id: str, revision: str | None) -> TensorHeaders:
    """Of the hub, config.json and the first bytes of each file of weights are read.

    Raises InvalidSettingError: no such model, or it has no safetensors; UnsupportedModelError: see Checkpoint.
    """
    if Path(model_id).is_dir():
        return Checkpoint(Path(model_id))
    # Not earlier: it takes a third of a second.
    from httpx2 import HTTPError
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import HFValidationError, NotASafetensorsRepoError, SafetensorsParsingError

    try:
        config = hf_hub_download(model_id, "config.json", revision=revision)
        files = get_safetensors_metadata(model_id, revision=revision).files_metadata.values()
    except (
        *(HTTPError, OSError, HFValidationError),
        *(NotASafetensorsRepoError, SafetensorsParsingError),
    ) as error:
        raise InvalidSettingError(
            f"{model_id} is no directory here, and cannot be read from the hub: {one_line(error)}"
        ) from error
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    return TensorHeaders(
        Path(config).parent,
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: str(tensor.dtype) for name, tensor in tensors.items()},
    )


def source_of(headers: TensorHeaders, dtype: str, quantize: str | None) -> ModelSource:
    """As the engine on a TPU makes it.

    Raises InvalidSettingError: --quantize contradicts the checkpoint; UnsupportedModelError: a format that is not read.
    """
    stored = stored_layers(headers)
    config = raw_config(headers.directory)
    tied = bool(config.get("tie_word_embeddings", False))
    return ModelSource(
        directory=headers.directory,
        tensors=stored.tensors(headers),
        dtype=dtype,
        transposed=False,
        # Whether a head that is there differs from the embedding would take reading both.
        own_head=not tied and any(name.endswith(HEADS) for name in headers.shapes),
        adapter_ranks={},
        made=scheme_to_make(quantize, stored),
        stored={name: layer.scheme for name, layer in stored.items()},
    )


@dataclass(frozen=True)
class Layers:
    """Attributes:
    count: of the model.
    depths: two numbers of layers, from which the cost of all follows: what a repetition of their pattern adds.
    chosen: experts of each token; 0 if there are none.
    """

    count: int
    depths: tuple[int, int]
    chosen: int


def layers_of(directory: Path) -> Layers:
    """Raises UnsupportedModelError."""
    config = load_config(directory)
    count = int(config.num_hidden_layers)
    return Layers(count, two_depths(config, count), int(getattr(config, "num_experts_per_tok", None) or 0))


def two_depths(config: Any, count: int) -> tuple[int, int]:
    """See `Layers`."""

    def field(name: str) -> Any:
        return getattr(config, name, None)

    types = field("layer_types") or [""] * count
    # Every so many layers there are experts, unless a list names the layer.
    every = int(field("decoder_sparse_step") or field("interleave_moe_layer_step") or 1)
    without = field("mlp_only_layers") or ()
    kinds = [(types[place], (place + 1) % every == 0 and place not in without) for place in range(count)]
    period = next(
        size
        for size in range(1, count + 1)
        if all(kinds[place] == kinds[place % size] for place in range(count))
    )
    first = int(field("first_k_dense_replace") or 0) + period
    return (first, first + period) if first + period < count else (count, count)


@contextmanager
def with_layers(source: ModelSource, count: int) -> Iterator[ModelSource]:
    """The same model with fewer layers."""
    config = raw_config(source.directory)
    # A multimodal checkpoint has what writes text in a field of its own.
    part = config if any(name in config for name in LAYER_COUNTS) else config.get("text_config", config)
    part[next((name for name in LAYER_COUNTS if name in part), LAYER_COUNTS[0])] = count
    if part.get("layer_types"):
        part["layer_types"] = part["layer_types"][:count]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config))
        tensors = tuple(name for name in source.tensors or () if number_of_layer(name) < count)
        stored = {name: scheme for name, scheme in source.stored.items() if number_of_layer(name) < count}
        yield replace(source, directory=Path(directory), tensors=tensors, stored=stored)


def number_of_layer(tensor: str) -> int:
    """Of the layer that a tensor belongs to; -1 for embedding, head and norm."""
    found = re.search(r"\.(\d+)\.", tensor)
    return int(found[1]) if found else -1
