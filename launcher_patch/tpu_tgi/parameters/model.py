"""What a checkpoint's config.json says about lengths and the size of the KV cache.

Read as plain JSON: transformers' AutoConfig loads torch, which takes seconds and claims the device.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from text_generation_server.engine.cache_dtype import SCALE_DTYPE, CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.checkpoint import raw_config
from text_generation_server.model.memory import MemoryNeed
from text_generation_server.model.quantisation.scheme import MADE

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Checkpoint:
    """A model whose files are here."""

    directory: Path
    config: Mapping[str, Any]

    @classmethod
    def find(cls, model_id: str, revision: str | None, environment: Mapping[str, str]) -> Self | None:
        """None if the model has to be downloaded first, or has no readable config.json; the shard then says why."""
        file = config_file(model_id, revision, environment)
        if file is None:
            return None
        try:
            return cls(file.parent, raw_config(file.parent))
        except UnsupportedModelError:
            return None

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model allows, if config.json says so."""
        return self._integer("max_position_embeddings", "n_positions")

    def need(
        self,
        dtype: str,
        layout: CacheLayout,
        quantize: str | None = None,
        cache_dtype: CacheDtype | None = None,
        *,
        pairs: bool = False,
    ) -> MemoryNeed | None:
        """The memory that the model takes; None if config.json does not tell, or the weights are not here.

        Args:
            dtype: of weights, and of the KV cache if that has no other.
            quantize, cache_dtype: as the options have it.
            layout: of keys and values: LANES on a TPU, HEADS on a CPU.
            pairs: two slots share a row where they fill lanes together.
        """
        layers = self._integer("num_hidden_layers", "n_layer")
        heads = self._integer("num_attention_heads", "n_head")
        width, vocabulary = self._integer("hidden_size", "n_embd"), self._integer("vocab_size")
        weights = self._weight_bytes(dtype, quantize)
        if layers is None or heads is None or width is None or vocabulary is None or weights is None:
            return None
        head_dim = self._integer("head_dim") or width // heads
        key_heads = self._integer("num_key_value_heads") or heads
        is_paired = pairs and layout.fills_in_pairs(key_heads, head_dim)
        keys = key_heads * head_dim if is_paired else math.prod(layout.shape(key_heads, head_dim))
        if cache_dtype is None:
            size = keys * BYTES[dtype]
        else:
            size = keys + (BYTES[SCALE_DTYPE] * key_heads if cache_dtype.is_scaled else 0)
        return MemoryNeed(
            weights=weights,
            position=2 * layers * size,
            slot=4 * vocabulary,
            multiple=2 if is_paired else 1,
        )

    def _integer(self, *names: str) -> int | None:
        """Under the name of most models, or of GPT-2."""
        found = (self.config.get(name) for name in names)
        return next((value for value in found if isinstance(value, int)), None)

    def _weight_bytes(self, dtype: str, quantize: str | None) -> int | None:
        # Imported here: it takes a third of a second, and only a dry run asks.
        from text_generation_server.errors import UnsupportedModelError
        from text_generation_server.model import checkpoint
        from text_generation_server.model.quantisation.stored import stored_layers

        try:
            headers = checkpoint.Checkpoint(self.directory)
            stored = stored_layers(headers)
        except UnsupportedModelError:
            return None
        made, size = MADE.get(quantize or "") if not stored else None, 0
        tables = (*checkpoint.HEADS, *checkpoint.EMBEDDINGS)
        for name in stored.tensors(headers):
            layer = stored.get(name)
            shape = layer.shape if layer else numbers_of(headers.shapes[name], headers.kind(name))
            # Of experts there may be one for all, [experts, outputs, inputs].
            is_made = len(shape) in (2, 3) and not name.endswith((*tables, *NEVER_MADE))
            scheme = layer.scheme if layer else made if is_made else None
            if scheme is None:
                size += math.prod(shape) * BYTES[dtype]
            else:
                size += math.prod(shape[:-2]) * scheme.nbytes(shape[-1], shape[-2], dtype)
        return size


NEVER_MADE = ("bias", ".gate.weight", "router.weight", "router.layer.weight")
"""Ends of the names of what has two dimensions and is no linear layer: biases of experts, and who chooses them."""


def numbers_of(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape of a tensor as numbers: experts of gpt-oss come with two in a byte, and exponents beside them."""
    if kind != "U8":
        return shape
    return (*shape[:2], 2 * math.prod(shape[2:])) if len(shape) == 4 else (0,)


def config_file(model_id: str, revision: str | None, environment: Mapping[str, str]) -> Path | None:
    """Where the shard will read config.json (`text_generation_server.hub.model_directory`), if it is here already."""
    override = environment.get("WEIGHTS_CACHE_OVERRIDE")
    for directory in (override, model_id):
        if directory and (file := Path(directory) / "config.json").is_file():
            return file
    if Path(model_id).is_dir():
        return None
    # Imported here: not needed for local models.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    cache = override or environment.get("HUGGINGFACE_HUB_CACHE") or None
    try:
        cached = try_to_load_from_cache(model_id, "config.json", cache_dir=cache, revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None
