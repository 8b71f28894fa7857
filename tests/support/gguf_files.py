"""Small random GGUF files, as llama.cpp writes them."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from support.small_tokenizers import byte_level

LAYERS, HIDDEN, WIDTH, HEADS, SHARED = 2, 64, 96, 4, 2


def write_gguf(path: Path, architecture: str, kind: GGMLQuantizationType) -> Path:
    """A model of two layers: matrices of the kind, norms and biases in float32, the head tied to the embedding."""
    backend = byte_level().backend_tokenizer
    tokens = sorted(backend.get_vocab(), key=backend.token_to_id)
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    merges = [" ".join(pair) for pair in _merges(backend)]
    writer.add_token_merges(merges)
    writer.add_bos_token_id(backend.token_to_id("<s>"))
    writer.add_eos_token_id(backend.token_to_id("</s>"))
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
    random = np.random.default_rng(0)
    matrices = {"token_embd": (len(tokens), HIDDEN)}
    vectors = {"output_norm.weight": HIDDEN}
    for layer in range(LAYERS):
        keys = HIDDEN * SHARED // HEADS
        for name, shape in {
            **{"attn_q": (HIDDEN, HIDDEN), "attn_k": (keys, HIDDEN), "attn_v": (keys, HIDDEN)},
            **{"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN)},
            "ffn_down": (HIDDEN, WIDTH),
        }.items():
            matrices[f"blk.{layer}.{name}"] = shape
        vectors |= {f"blk.{layer}.attn_norm.weight": HIDDEN, f"blk.{layer}.ffn_norm.weight": HIDDEN}
        if architecture == "qwen2":
            sizes = {"attn_q": HIDDEN, "attn_k": keys, "attn_v": keys}
            vectors |= {f"blk.{layer}.{name}.bias": size for name, size in sizes.items()}
    for name, shape in matrices.items():
        values = random.normal(0, 0.3, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)
    for name, size in vectors.items():
        writer.add_tensor(name, random.normal(1, 0.1, size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(backend: object) -> list[list[str]]:
    import json

    merges: list[list[str]] = json.loads(backend.to_str())["model"]["merges"]  # type: ignore[attr-defined]
    return merges
