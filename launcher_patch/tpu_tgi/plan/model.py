"""A model as far as config.json and the headers of its weights tell: of a directory, or in small reads of the hub."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from text_generation_server.errors import InvalidSettingError, UnsupportedModelError, one_line
from text_generation_server.model.checkpoint import HEADS, Checkpoint, TensorHeaders, raw_config
from text_generation_server.model.description import ModelSource
from text_generation_server.model.quantisation.choice import scheme_to_make
from text_generation_server.model.quantisation.stored import stored_layers

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


def headers_of(model_id: str, revision: str | None) -> TensorHeaders:
    """Raises InvalidSettingError: no such model, or it has no safetensors; UnsupportedModelError: see Checkpoint."""
    if Path(model_id).is_dir():
        return Checkpoint(Path(model_id))
    # Not earlier: it takes a third of a second.
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, NotASafetensorsRepoError

    try:
        config = hf_hub_download(model_id, "config.json", revision=revision)
        files = get_safetensors_metadata(model_id, revision=revision).files_metadata.values()
    except (HfHubHTTPError, HFValidationError, NotASafetensorsRepoError, OSError) as error:
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


def layer_count(config: Mapping[str, Any]) -> tuple[str, int]:
    """The name that config.json has for the number of layers, and the number. Raises UnsupportedModelError."""
    for name in LAYER_COUNTS:
        if isinstance(config.get(name), int):
            return name, config[name]
    raise UnsupportedModelError(f"config.json says no number of layers ({', '.join(LAYER_COUNTS)})")


def two_depths(config: Mapping[str, Any]) -> tuple[int, int]:
    """Two numbers of layers, from which the cost of all follows: what a repetition of the pattern of layers adds."""
    count = layer_count(config)[1]
    types = config.get("layer_types") or [""] * count
    # Every so many layers there are experts, unless a list names the layer.
    every = int(config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1)
    without = config.get("mlp_only_layers") or ()
    kinds = [(types[place], (place + 1) % every == 0 and place not in without) for place in range(count)]
    period = next(
        size
        for size in range(1, count + 1)
        if all(kinds[place] == kinds[place % size] for place in range(count))
    )
    first = int(config.get("first_k_dense_replace") or 0) + period
    return (first, first + period) if first + period < count else (count, count)


@contextmanager
def with_layers(source: ModelSource, count: int) -> Iterator[ModelSource]:
    """The same model with fewer layers."""
    config = raw_config(source.directory)
    key, all_layers = layer_count(config)
    if count == all_layers:
        yield source
        return
    config[key] = count
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:count]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config))
        tensors = tuple(name for name in source.tensors or () if number_of_layer(name) < count)
        stored = {name: scheme for name, scheme in source.stored.items() if number_of_layer(name) < count}
        yield replace(source, directory=Path(directory), tensors=tensors, stored=stored)


def number_of_layer(tensor: str) -> int:
    """Of the layer that a tensor belongs to; -1 for embedding, head and norm."""
    found = re.search(r"\.(\d+)\.", tensor)
    return int(found[1]) if found else -1
