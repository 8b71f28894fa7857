"""Tiny random checkpoints, one per architecture, and what transformers itself generates from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

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

SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

LONGROPE: dict[str, Any] = {
    **{"rope_type": "longrope", "rope_theta": 10000.0},
    **{"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.5 + 0.7 * i for i in range(8)]},
}
"""Without the length where long requests begin."""

RECIPES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "biogpt": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5, **SLIDING},
    "cwm": SLIDING,
    "ernie4_5": {},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 48,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "num_hidden_layers": 3,
    },
    "exaone4": {"sliding_window_pattern": 2, **SLIDING},
    "falcon": {"bias": True},
    "falcon new decoder": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon alibi": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, **SLIDING},
    "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
    "glm4_moe": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "num_hidden_layers": 3,
    },
    "gpt2": {"n_inner": 96},
    "gpt_bigcode": {},
    "gpt_bigcode every key": {"multi_query": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": {},
    "gpt_neox_japanese": {"intermediate_multiple_size": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, **SLIDING},
    "gptj": {"rotary_dim": 8},
    "granite": {
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "granite_swa": SLIDING,
    "granitemoe": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "granitemoeshared": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 96,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "helium": {},
    "hunyuan_v1_dense": {},
    "hyperclovax": {
        "use_post_norm": True,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "llama": {},
    "llama4_text": {
        "intermediate_size_mlp": 96,
        "num_local_experts": 4,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": WINDOW,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        # Queries grow from here on.
        "floor_scale": 16,
        "attn_scale": 0.3,
    },
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": SLIDING,
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            # Queries grow from here on, so sequences must be longer.
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "mistral": {"sliding_window": WINDOW},
    # A window that is exceeded, two experts of four.
    "mixtral": {"num_local_experts": 4, "sliding_window": WINDOW},
    "mpt": {"max_seq_len": 128},
    "nanochat": {},
    "nemotron": {"partial_rotary_factor": 0.5},
    "olmo": {"clip_qkv": 1.5},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 3},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "opt projected": {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "persimmon": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "phi": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "phi3": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "lm_head_bias": True},
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 96,
        "mlp_only_layers": [0],
        "num_hidden_layers": 3,
    },
    "qwen3": {},
    # So many experts that the few tokens of a step choose some of them only.
    "qwen3_moe": {
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "seed_oss": {"attention_bias": True},
    "smollm3": {"no_rope_layers": [1, 0], "use_sliding_window": True, **SLIDING},
    "stablelm": {"partial_rotary_factor": 0.25, "use_qkv_bias": True},
    "stablelm parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    "starcoder2": {"sliding_window": WINDOW},
    "vaultgemma": {"query_pre_attn_scalar": 16, **SLIDING},
    "xglm": {"ffn_dim": 96},
}
"""By model type, and a word behind it where one type has two kinds of models."""


def type_of(recipe: str) -> str:
    """The model type of a recipe."""
    return recipe.partition(" ")[0]


EYES = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4},
}
QWEN_EYES = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 32, "num_heads": 2}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}

MULTIMODAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", RECIPES["gemma3_text"], {"model_type": "siglip_vision_model", **EYES}),
    "idefics3": ("llama", {}, EYES),
    "internvl": ("qwen2", {}, {**EYES, "image_size": [8, 8], "patch_size": [4, 4]}),
    "llama4": (
        "llama4_text",
        RECIPES["llama4_text"],
        {
            **{"model_type": "llama4_vision_model", **EYES, "vision_output_dim": 32},
            **{"projector_input_dim": 32, "projector_output_dim": 32},
        },
    ),
    "llava": ("llama", {}, {"model_type": "clip_vision_model", **EYES}),
    "mistral3": ("mistral", {"sliding_window": WINDOW}, {"model_type": "pixtral", "head_dim": 16, **EYES}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {"rope_parameters": QWEN_ROPE}, QWEN_EYES),
    "qwen2_vl": (
        "qwen2_vl_text",
        {"rope_parameters": QWEN_ROPE},
        {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 1},
    ),
    "qwen3_vl": (
        "qwen3_vl_text",
        {"rope_parameters": {**QWEN_ROPE, "mrope_interleaved": True}},
        {**QWEN_EYES, "deepstack_visual_indexes": []},
    ),
    "smolvlm": ("llama", {}, EYES),
}
"""By model type: that of its text part, what is special there, and the part that sees."""


def save(recipe: str, directory: Path, **changes: Any) -> Path:
    """Writes a random checkpoint."""
    model_type = type_of(recipe)
    config = AutoConfig.for_model(model_type, **{**sizes(model_type), **RECIPES.get(recipe, {}), **changes})
    return saved(AutoModelForCausalLM, config, directory)


def save_multimodal(model_type: str, directory: Path) -> Path:
    """Writes a random checkpoint that can see."""
    text_type, special, eyes = MULTIMODAL[model_type]
    text = {**sizes(text_type), **special, "model_type": text_type}
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=eyes)
    return saved(AutoModelForImageTextToText, config, directory)


def saved(kind: Any, config: Any, directory: Path) -> Path:
    torch.manual_seed(0)
    kind.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


def sizes(model_type: str) -> dict[str, Any]:
    """Those of SIZES that models of a type know."""
    usual = AutoConfig.for_model(model_type)
    return {
        key: value for key, value in SIZES.items() if key in usual.to_dict() or key in usual.attribute_map
    }


def other_head(recipe: str) -> dict[str, bool]:
    """The change of a recipe that gives its head weights of its own if it shares those of the embeddings, and the
    reverse; nothing for a type that knows one of both only."""
    model_type = type_of(recipe)
    config = AutoConfig.for_model(model_type, **{**sizes(model_type), **RECIPES[recipe]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    tied = model._tied_weights_keys or {}
    names = {name for name, module in model.named_modules() if module is head}
    if not any(key.removesuffix(".weight") in names for key in tied):
        return {}
    return {"tie_word_embeddings": head.weight is not model.get_input_embeddings().weight}


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
    scores = scores_of(model, prompt, tokens)
    return Expected(scores.argmax(dim=-1).tolist(), scores.amax(dim=-1).tolist())


def behind_the_best(model: Any, prompt: list[int], tokens: list[int]) -> list[float]:
    """By how much each token lies behind the best in its place, in transformers' logprobs; 0 for the best itself."""
    scores = scores_of(model, prompt, tokens)
    chosen = scores.gather(1, torch.tensor(tokens).unsqueeze(1))[:, 0]
    return (scores.amax(dim=-1) - chosen).tolist()


def scores_of(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """[tokens, vocabulary] float32: what transformers thinks of each place, in one forward."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.float(), dim=-1)


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
