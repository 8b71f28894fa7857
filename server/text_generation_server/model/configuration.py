"""What is read of a checkpoint beside its weights: configuration, tokenizer, and the tokens that end a text."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from text_generation_server.errors import UnsupportedModelError, one_line
from text_generation_server.model.architectures import (
    SUPPORTED_MODEL_TYPES,
    is_multimodal,
    refusal,
)
from text_generation_server.model.checkpoint import raw_config
from text_generation_server.model.rotary import rotary_kinds, rotary_lengths
from text_generation_server.model.text_part import text_config

SUPPORTED_ROPE_TYPES = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")

POSITIONS = ("max_position_embeddings", "max_seq_len", "seq_length")
"""How configurations call the longest sequence."""

UNLIMITED = 2048
"""What is assumed of models without a limit, which have no table of positions (ALiBi)."""


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
    model_type = raw_config(directory).get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedModelError(refusal(str(model_type)))
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        # Each configuration checks itself in its own way.
        raise UnsupportedModelError(
            f"config.json in {directory} contradicts itself: {one_line(error)}"
        ) from error
    if is_multimodal(config.model_type):
        config = text_config(config)
        if config.model_type not in SUPPORTED_MODEL_TYPES:
            raise UnsupportedModelError(f"the text part of {model_type}: {refusal(config.model_type)}")
    heads, shared = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        raise UnsupportedModelError(
            f"config.json in {directory} contradicts itself: num_attention_heads = {heads} is not a multiple of "
            f"num_key_value_heads = {shared}"
        )
    for architecture in config.architectures or []:
        if not architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            raise UnsupportedModelError(
                f"{architecture} does not generate text; a ...ForCausalLM checkpoint of a supported model type works"
            )
    if getattr(config, "quantization_config", None) is not None:
        # `model.quantisation.stored` reads it; transformers would look for libraries of its own.
        del config.quantization_config
    for parameters in rotary_kinds(config):
        rope_type = parameters.get("rope_type", "default")
        if rope_type not in SUPPORTED_ROPE_TYPES:
            raise UnsupportedModelError(
                f"rotary embedding type {rope_type!r} is not supported. Supported: {', '.join(SUPPORTED_ROPE_TYPES)}"
            )
    return config


def positions(config: Any) -> int:
    """The longest sequence that a model was made for."""
    lengths = rotary_lengths(config)
    if lengths is not None and lengths.each:
        # max_position_embeddings is where frequencies begin to change, and the factor how far that goes.
        return int(lengths.original * max(each.get("factor", 1) for each in rotary_kinds(config)))
    for name in POSITIONS:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return UNLIMITED


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
            f"the tokenizer in {directory} cannot be loaded: {one_line(error)}"
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
