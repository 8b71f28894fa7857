"""Tiny random checkpoints, one per architecture, and what transformers itself generates from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    # Far from the usual 0.02: logits must differ clearly, or rounding decides which token is best.
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Shorter than the sequences that the tests make, so that old tokens fall out of it.
WINDOW = 16

RECIPES: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.5},
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 96},
    "gpt_neox": {},
    "granite": {
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "olmo2": {},
    "phi3": {},
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "qwen3": {},
    "starcoder2": {"sliding_window": WINDOW},
}


def save(model_type: str, directory: Path, **changes: Any) -> Path:
    """Writes a random checkpoint of an architecture."""
    sizes = {key: value for key, value in SIZES.items() if model_type != "gpt2" or key in GPT2_SIZES}
    config = AutoConfig.for_model(model_type, **{**sizes, **RECIPES.get(model_type, {}), **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)
    return directory


GPT2_SIZES = {"vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id"}


@dataclass(frozen=True)
class Expected:
    """Greedy tokens and their logprobs, by transformers."""

    tokens: list[int]
    logprobs: list[float]


def follow(model: Any, prompt: list[int], tokens: list[int]) -> Expected:
    """What transformers chooses after the prompt and after each of `tokens` but the last, in one forward.

    If these are `tokens` again, then greedy search gives `tokens`: each is the best after those before it. One
    forward instead of one for each token makes this affordable for many long answers.
    """
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    scores = torch.log_softmax(logits.float(), dim=-1)
    return Expected(scores.argmax(dim=-1).tolist(), scores.amax(dim=-1).tolist())


def generate(model: Any, prompt: list[int], count: int) -> Expected:
    """transformers' own greedy answer, which does not stop at EOS."""
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = answer.sequences[0, len(prompt) :].tolist()
    logprobs = [
        float(torch.log_softmax(logits[0].float(), dim=-1)[token])
        for logits, token in zip(answer.logits, tokens, strict=True)
    ]
    return Expected(tokens, logprobs)
