"""From a checkpoint directory to a running engine."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch_xla
import torch_xla.runtime as runtime
from loguru import logger

from text_generation_server.engine.contract import EngineLimits
from text_generation_server.engine.engine import XlaEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import initial_state
from text_generation_server.errors import InvalidSettingError
from text_generation_server.model import checkpoint as host
from text_generation_server.model.adapters.adapted import AdaptedModel
from text_generation_server.model.adapters.reading import Adapter, read_adapter
from text_generation_server.model.adapters.stacking import stack_adapters
from text_generation_server.model.memory import MemoryNeed
from text_generation_server.model.weights import store_transposed
from text_generation_server.runtime.device_memory import free_memory
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
        f"KV cache {memory_need(loaded, device_layout()).cache(batch_size, loaded.max_length) / 2**20:.0f} MiB"
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
    for adapter in adapters:
        logger.info(
            f"LoRA adapter {adapter.name}: rank {adapter.largest_rank}, {len(adapter.updates)} layers"
        )
    layout = layout or device_layout()
    need = memory_need(loaded, layout, sum(stack.nbytes for stack in stacks.values()))
    # On a CPU the weights are in that memory already.
    free = free_memory()
    memory = None if free is None else free + (need.weights if on_cpu() else 0)
    if memory is not None and need.total(batch_size, loaded.max_length) > memory:
        raise InvalidSettingError(need.refusal(memory, batch_size, loaded.max_length))
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
        state = initial_state(
            loaded.cache_shape, layout, batch_size, loaded.max_length, loaded.vocab_size, loaded.dtype, device
        )
        on_device = {layer: stack.to(device) for layer, stack in stacks.items()}
        torch_xla.sync(wait=True)
    except RuntimeError as error:
        refusal = need.refusal(memory, batch_size, loaded.max_length)
        raise InvalidSettingError(f"{refusal}: {host.first_line(error)}") from error
    model = AdaptedModel(loaded.model, on_device) if adapters else loaded.model
    names = tuple(adapter.name for adapter in adapters)
    limits = EngineLimits(
        batch_size, loaded.max_length, loaded.vocab_size, name, "xla", scores_prompts, names
    )
    return XlaEngine(model, state, limits, strength, device)


def device_layout() -> CacheLayout:
    """How the device wants keys and values to lie."""
    return CacheLayout.HEADS if on_cpu() else CacheLayout.LANES


def memory_need(loaded: host.HostModel, layout: CacheLayout, adapter_bytes: int = 0) -> MemoryNeed:
    """What weights and static batch take on the device."""
    shapes = [layout.shape(*heads_and_dim) for layer in loaded.cache_shape.layers for heads_and_dim in layer]
    return MemoryNeed(
        weights=adapter_bytes + sum(parameter.nbytes for parameter in loaded.model.parameters()),
        position=sum(math.prod(shape) for shape in shapes) * loaded.dtype.itemsize,
        slot=4 * loaded.vocab_size,
    )
