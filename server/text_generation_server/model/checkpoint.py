"""Loading a checkpoint on the host: what is supported, what is refused, and with which words.

Models are transformers' own classes, unmodified. An architecture is listed here once a test compares its
tokens with transformers' `generate`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from text_generation_server.engine import attention
from text_generation_server.engine.cache import ProbeStep, slot_cache
from text_generation_server.engine.state import CacheShape
from text_generation_server.errors import UnsupportedModelError

SUPPORTED_MODEL_TYPES = (
    "cohere",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "starcoder2",
)
# Of these each position has one frequency. "dynamic" and "longrope" choose frequencies by the longest
# sequence of the batch, so a request's tokens would depend on its neighbours.
SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3", "yarn")

DEFAULT_MAX_LENGTH = 2048
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class HostModel:
    """A loaded model, still on the host.

    Attributes:
        model: a transformers model in eval mode; its attention is `attention.attend`.
        max_length: resolved length of a slot.
        vocab_size: last dimension of the logits.
    """

    model: Any
    cache_shape: CacheShape
    max_length: int
    vocab_size: int
    dtype: torch.dtype


def load_config(directory: Path) -> Any:
    """The checkpoint's config, if this server can run it.

    Raises:
        UnsupportedModelError: not a checkpoint, or an architecture, rotary embedding or quantisation that
            is not supported; the message lists what is.
    """
    if not (directory / "config.json").is_file():
        raise UnsupportedModelError(
            f"no config.json in {directory}: give a model id or a directory with a checkpoint"
        )
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UnsupportedModelError(
            f"config.json in {directory} cannot be read: {error}. Supported model types: {supported()}"
        ) from error
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedModelError(
            f"model type {config.model_type!r} is not supported. Supported: {supported()}"
        )
    for architecture in config.architectures or []:
        if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
            raise UnsupportedModelError(
                f"{architecture} does not generate text; a ...ForCausalLM checkpoint of a supported model type works"
            )
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            "quantized checkpoints are not supported (quantization_config in config.json); "
            "use the float16, bfloat16 or float32 checkpoint of this model"
        )
    for rope_type in rope_types(getattr(config, "rope_parameters", None)):
        if rope_type not in SUPPORTED_ROPE_TYPES:
            raise UnsupportedModelError(
                f"rotary embedding type {rope_type!r} is not supported: its frequencies depend on the longest request "
                f"of the batch. Supported: {', '.join(SUPPORTED_ROPE_TYPES)}"
            )
    return config


def supported() -> str:
    return ", ".join(SUPPORTED_MODEL_TYPES)


def rope_types(parameters: dict[str, Any] | None) -> set[str]:
    """The kinds of rotary embedding; models with two kinds of layers keep one set of parameters for each."""
    if not parameters:
        return set()
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    found = set().union(*(rope_types(value) for value in nested))
    return found or {parameters.get("rope_type", "default")}


def resolve_max_length(config: Any, max_length: int | None) -> int:
    """The length of a slot: as asked, or what the model allows up to a default.

    Raises:
        UnsupportedModelError: the model has no positions that far.
    """
    positions = int(config.max_position_embeddings)
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, positions)
    if max_length > positions:
        raise UnsupportedModelError(
            f"HF_SEQUENCE_LENGTH / MAX_TOTAL_TOKENS is {max_length}, but the model has max_position_embeddings = "
            f"{positions}; use {positions} or less"
        )
    return max_length


def load_model(directory: Path, config: Any, max_length: int | None, dtype: torch.dtype) -> HostModel:
    """Reads the safetensors weights of a checkpoint, whose `config` is that of `load_config`.

    Raises:
        UnsupportedModelError: as `resolve_max_length`, or weights that are missing, damaged or do not fit the
            config.
    """
    length = resolve_max_length(config, max_length)
    attention.register()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=attention.IMPLEMENTATION,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        # transformers and safetensors raise many kinds here; all of them mean that the files are no good.
        raise UnsupportedModelError(
            f"the weights in {directory} cannot be loaded: {first_line(error)}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UnsupportedModelError(
            f"the weights in {directory} do not fit config.json: {len(missing)} tensors are missing, "
            f"for example {missing[0]}"
        )
    # Some models look for padding in their input when they know its id: a read-back in every step.
    model.config.pad_token_id = None
    model.eval()
    shape, vocab_size = probe(model)
    return HostModel(model, shape, length, vocab_size, dtype)


def first_line(error: Exception) -> str:
    """Enough of an error for one line of log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:500] if lines else type(error).__name__


def probe(model: Any) -> tuple[CacheShape, int]:
    """Runs one token on the host, to learn the cache's shape and the number of logits.

    It also finds models whose attention asks for what `attention.attend` does not do.
    """
    layers = model.config.num_hidden_layers
    cache = slot_cache([torch.empty(0)] * (2 * layers), ProbeStep())
    token = torch.zeros((1, 1), dtype=torch.int32)
    try:
        with torch.no_grad():
            logits = model(input_ids=token, position_ids=token, past_key_values=cache, use_cache=True).logits
    except NotImplementedError as error:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be served: {error}") from error
    shapes = tuple((heads_and_dim(layer.keys), heads_and_dim(layer.values)) for layer in cache.layers)
    return CacheShape(shapes), int(logits.shape[-1])


def heads_and_dim(written: torch.Tensor) -> tuple[int, int]:
    return int(written.shape[2]), int(written.shape[3])


def load_tokenizer(directory: Path) -> Any:
    """The fast tokenizer of a checkpoint.

    Raises:
        UnsupportedModelError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        # As with weights: many kinds of errors, one meaning.
        raise UnsupportedModelError(
            f"the tokenizer in {directory} cannot be loaded: {first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"{directory} has no tokenizer.json, and its tokenizer cannot be converted to a fast one; "
            "save it with transformers' PreTrainedTokenizerFast.save_pretrained"
        )
    return tokenizer


def eos_token_ids(directory: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    """All tokens that end a text: those of generation_config.json (or config.json), and the tokenizer's own."""
    if (directory / "generation_config.json").is_file():
        declared = GenerationConfig.from_pretrained(directory).eos_token_id
    else:
        declared = config.eos_token_id
    ids = {declared} if isinstance(declared, int) else set(declared or ())
    return frozenset(ids | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()))
