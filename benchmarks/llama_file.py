"""A checkpoint of the Llama family as a GGUF file in float32, without a tokenizer, for benchmarks.llama."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors import safe_open

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Names of a layer's weights, there and in GGUF."""

REST = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def is_llama(directory: Path) -> bool:
    """Whether `write` can do it: one file of the Llama family, without what would need more keys."""
    config = json.loads((directory / "config.json").read_text())
    return config["model_type"] == "llama" and (directory / "model.safetensors").exists()


def write(directory: Path, file: Path) -> None:
    """Writes the file, whole or not at all."""
    config = json.loads((directory / "config.json").read_text())
    rotary = config.get("rope_parameters") or config
    made = file.with_suffix(".new")
    writer = GGUFWriter(made, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    with safe_open(directory / "model.safetensors", "np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
            values = tensors.get_tensor(name).astype(np.float32)
            if "q_proj" in name:
                values = interleaved(values, config["num_attention_heads"])
            if "k_proj" in name:
                values = interleaved(values, config["num_key_value_heads"])
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made.replace(file)


def gguf_name(name: str) -> str:
    """KeyError for a tensor that is not of the Llama family."""
    if name in REST:
        return REST[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def interleaved(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head in the order of llama.cpp, which turns neighbours where transformers turns halves."""
    inputs = values.shape[1]
    return values.reshape(heads, 2, -1, inputs).swapaxes(1, 2).reshape(-1, inputs)
