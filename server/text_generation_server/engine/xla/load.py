"""From a checkpoint directory to a running engine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch_xla
import torch_xla.runtime as runtime
from loguru import logger

from text_generation_server.engine import model as host
from text_generation_server.engine.adapters.adapted import AdaptedModel
from text_generation_server.engine.adapters.reading import Adapter, read_adapter
from text_generation_server.engine.adapters.stacking import stack_adapters
from text_generation_server.engine.contract import EngineLimits
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import initial_state
from text_generation_server.engine.weights import store_transposed
from text_generation_server.engine.xla.engine import XlaEngine
from text_generation_server.errors import InvalidSettingError
from text_generation_server.sampling.parameters import WatermarkStrength

DEFAULT_WATERMARK = WatermarkStrength()


@dataclass(frozen=True)
class LoadedEngine:
    """What the generator needs of a model."""

    engine: XlaEngine
    tokenizer: Any
    eos_token_ids: frozenset[int]


def load_engine(
    model_directory: Path,
    *,
    batch_size: int,
    max_length: int | None,
    dtype: str | None,
    scores_prompts: bool = False,
    strength: WatermarkStrength = DEFAULT_WATERMARK,
    adapters: Sequence[tuple[str, Path]] = (),
) -> LoadedEngine:
    """Loads a checkpoint and puts weights and an empty static batch on the device; compiles nothing.

    Args:
        max_length: tokens per slot; None for what the model allows, up to 2048.
        dtype: "float16", "bfloat16" or "float32"; None for the device's own: bfloat16 on a TPU, float32 on a CPU.
        scores_prompts: be ready to give the logprobs of prompts.
        strength: of watermarks.
        adapters: name, as requests have it, and directory of each LoRA adapter.

    Raises:
        UnsupportedModelError: see `engine.model`.
        InvalidSettingError: an adapter cannot be served, or the weights and the cache do not fit in memory together.
    """
    # Tokenizers' own threads would compete with XLA's, and warn when a process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = host.load_config(model_directory)
    tokenizer = host.load_tokenizer(model_directory)
    eos_token_ids = host.eos_token_ids(model_directory, config, tokenizer)

    lora = [read_adapter(name, directory) for name, directory in adapters]

    name = dtype or ("float32" if on_cpu() else "bfloat16")
    loaded = host.load_model(model_directory, config, max_length, host.DTYPES[name])
    engine = place_on_device(loaded, batch_size, scores_prompts, strength, lora)
    logger.info(
        f"Loaded {config.model_type} in {name}: batch size {batch_size}, sequence length {loaded.max_length}, "
        f"KV cache {cache_bytes(loaded, batch_size) / 2**20:.0f} MiB"
    )
    return LoadedEngine(engine, tokenizer, eos_token_ids)


def on_cpu() -> bool:
    """True if XLA computes on the host's processor."""
    return bool(runtime.device_type() == "CPU")


def place_on_device(
    loaded: host.HostModel,
    batch_size: int,
    scores_prompts: bool = False,
    strength: WatermarkStrength = DEFAULT_WATERMARK,
    adapters: Sequence[Adapter] = (),
    layout: CacheLayout | None = None,
) -> XlaEngine:
    """Moves the weights to the device, in the layout that it wants, and allocates the batch.

    Args:
        layout: of the KV cache; None for what the device wants.

    Raises:
        InvalidSettingError: an adapter does not fit the model, or the weights and the cache do not fit in memory
            together.
    """
    stacks = stack_adapters(loaded.model, adapters, loaded.dtype)
    adapter_bytes = sum(stack.nbytes for stack in stacks.values())
    for adapter in adapters:
        logger.info(
            f"LoRA adapter {adapter.name}: rank {adapter.largest_rank}, {len(adapter.updates)} layers"
        )
    device = torch_xla.device()
    name = str(loaded.dtype).removeprefix("torch.")
    if on_cpu():
        store_transposed(loaded.model)
    elif name == "float32":
        # A TPU multiplies float32 matrices in bfloat16 passes unless told otherwise.
        torch_xla.backends.set_mat_mul_precision("highest")
    try:
        loaded.model.to(device)
        if not on_cpu():
            # Moving parameters to an XLA device unties them; a tied head would take its memory twice.
            loaded.model.tie_weights()
        layout = layout or (CacheLayout.HEADS if on_cpu() else CacheLayout.LANES)
        state = initial_state(
            loaded.cache_shape, layout, batch_size, loaded.max_length, loaded.vocab_size, loaded.dtype, device
        )
        on_device = {layer: stack.to(device) for layer, stack in stacks.items()}
        torch_xla.sync(wait=True)
    except RuntimeError as error:
        raise InvalidSettingError(
            f"HF_BATCH_SIZE={batch_size} and HF_SEQUENCE_LENGTH={loaded.max_length} need "
            f"{cache_bytes(loaded, batch_size) / 2**30:.1f} GiB of KV cache, which does not fit beside the weights "
            f"and {adapter_bytes / 2**30:.1f} GiB of LoRA adapters; lower one of them, or load fewer adapters: "
            f"{host.first_line(error)}"
        ) from error
    model = AdaptedModel(loaded.model, on_device) if adapters else loaded.model
    names = tuple(adapter.name for adapter in adapters)
    limits = EngineLimits(
        batch_size, loaded.max_length, loaded.vocab_size, name, "xla", scores_prompts, names
    )
    return XlaEngine(model, state, limits, strength, device)


def cache_bytes(loaded: host.HostModel, batch_size: int) -> int:
    """Size of the KV cache."""
    per_token = sum(heads * dim for layer in loaded.cache_shape.layers for heads, dim in layer)
    return per_token * loaded.max_length * batch_size * loaded.dtype.itemsize
