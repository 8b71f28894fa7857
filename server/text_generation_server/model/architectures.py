"""The model types that are served: one line each. No torch and no transformers here.

Models are transformers' own classes, unmodified. A line is added once the test that it names compares the
model's tokens with transformers' `generate`. docs/models.md is made from this table.
"""

from dataclasses import dataclass

PARITY = "test_an_architecture_generates_what_transformers_generates"
"""Of tests/engine/test_architectures.py, which runs every line."""

TEXT_PARITY = "test_the_text_part_of_a_multimodal_checkpoint_generates_what_transformers_generates"
"""Of the same file, for checkpoints that can see, of which the text part is served."""


@dataclass(frozen=True)
class Architecture:
    """Attributes:
    model_type: as config.json has it.
    family: the models that people know it by.
    special: what sets it apart from Llama, which is what the test has to meet.
    test: the name of the test that compares its tokens with those of transformers.
    """

    model_type: str
    family: str
    special: str
    test: str = PARITY


ARCHITECTURES = (
    Architecture("apertus", "Apertus", "xIELU with trained parameters, normed queries and keys"),
    Architecture("arcee", "AFM 4.5B", "squared ReLU"),
    Architecture("biogpt", "BioGPT", "learned positions, scaled embeddings, biases"),
    Architecture("bloom", "BLOOM, BLOOMZ", "ALiBi, normed embeddings, attention of its own"),
    Architecture("codegen", "CodeGen 1", "partial and interleaved rotary, attention of its own"),
    Architecture(
        "cohere", "Command R, Aya 23", "attention and MLP in parallel, interleaved rotary, scaled logits"
    ),
    Architecture(
        "cohere2",
        "Command R7B, Command A, Aya Expanse",
        "as Cohere, with sliding windows; layers without rotary",
    ),
    Architecture("cwm", "Code World Model", "sliding windows"),
    Architecture("ernie4_5", "ERNIE 4.5, dense", "interleaved rotary"),
    Architecture(
        "ernie4_5_moe",
        "ERNIE 4.5 21B-A3B and 300B-A47B",
        "experts that a bias helps to choose, some that all tokens share, layers without experts, interleaved rotary",
    ),
    Architecture(
        "exaone4", "EXAONE 4.0", "sliding windows, norms after attention and MLP, layers without rotary"
    ),
    Architecture(
        "falcon",
        "Falcon 7B to 180B, Falcon-RW",
        "ALiBi or rotary, one key head, old and new decoder, attention of its own",
    ),
    Architecture("gemma", "Gemma, CodeGemma", "scaled embeddings, norms of 1 + weight"),
    Architecture("gemma2", "Gemma 2", "sliding windows, bounded scores and logits"),
    Architecture("gemma3", "Gemma 3 4B to 27B", "text part, as Gemma 3, text only", TEXT_PARITY),
    Architecture(
        "gemma3_text",
        "Gemma 3, text only",
        "sliding windows, two rotary frequencies, normed queries and keys",
    ),
    Architecture(
        "glm", "GLM-4 9B, GLM-Edge", "partial and interleaved rotary, biases of queries, keys and values"
    ),
    Architecture("glm4", "GLM-4 0414, GLM-Z1", "as GLM, with norms before and after attention and MLP"),
    Architecture(
        "glm4_moe",
        "GLM-4.5, GLM-4.6, GLM-4.5-Air",
        "experts in groups, one that all tokens share, layers without experts, partial rotary",
    ),
    Architecture("gpt2", "GPT-2, DistilGPT-2", "learned positions, transposed linear layers, biases"),
    Architecture("gpt_bigcode", "StarCoder 1, SantaCoder", "one key head, learned positions"),
    Architecture(
        "gpt_neo", "GPT-Neo", "sliding windows, learned positions, scores without scale, attention of its own"
    ),
    Architecture(
        "gpt_neox",
        "GPT-NeoX, Pythia, Dolly 2",
        "partial rotary, parallel residual, fused queries, keys and values",
    ),
    Architecture("gpt_neox_japanese", "GPT-NeoX Japanese", "rotary on a part, attention of its own"),
    Architecture(
        "gpt_oss",
        "gpt-oss 20B and 120B",
        "experts with biases and a bounded gate, attention sinks, sliding windows, YaRN",
    ),
    Architecture("gptj", "GPT-J", "partial and interleaved rotary, parallel residual, attention of its own"),
    Architecture("granite", "Granite 3", "multipliers of embeddings, scores, residuals and logits"),
    Architecture(
        "granite_swa",
        "Granite with sliding windows",
        "attention sinks, sliding windows, multipliers as Granite",
    ),
    Architecture("granitemoe", "Granite 3 MoE", "experts, multipliers as Granite"),
    Architecture(
        "granitemoeshared",
        "Granite 3 MoE with shared experts",
        "as Granite MoE, an expert that all tokens share",
    ),
    Architecture("helium", "Helium 1", "interleaved rotary"),
    Architecture("hunyuan_v1_dense", "Hunyuan, dense", "normed queries and keys after the rotation"),
    Architecture(
        "hyperclovax", "HyperCLOVA X SEED", "multipliers as Granite, norms before and after attention and MLP"
    ),
    Architecture("idefics3", "Idefics 3", "text part, as Llama", TEXT_PARITY),
    Architecture("internlm3", "InternLM 3", "as Llama"),
    Architecture("internvl", "InternVL 3", "text part, as Qwen 2, Qwen 3 or Llama", TEXT_PARITY),
    Architecture("iquestcoder", "IQuest-Coder", "as Llama"),
    Architecture("jais2", "Jais 2", "layer norms, squared ReLU, biases"),
    Architecture(
        "llama",
        "Llama 1 to 3.3, SmolLM, TinyLlama, Yi, DeepSeek-R1-Distill-Llama, and others",
        "grouped key heads",
    ),
    Architecture("llama4", "Llama 4 Scout and Maverick", "text part, as Llama 4, text only", TEXT_PARITY),
    Architecture(
        "llama4_text",
        "Llama 4, text only",
        "chunked attention, layers without rotary, queries that grow with their position, experts",
    ),
    Architecture(
        "llava", "LLaVA 1.5, Pixtral", "text part, as the model that is named in text_config", TEXT_PARITY
    ),
    Architecture("minimax_m2", "MiniMax M2", "experts, partial rotary, normed queries and keys"),
    Architecture("ministral", "Ministral 8B", "sliding windows"),
    Architecture("ministral3", "Ministral 3, text only", "YaRN, queries that grow with their position"),
    Architecture("mistral", "Mistral 7B, Mistral Nemo, Mistral Small", "sliding window"),
    Architecture(
        "mistral3", "Mistral Small 3.1, Ministral 3", "text part, as Mistral or Ministral 3", TEXT_PARITY
    ),
    Architecture("mixtral", "Mixtral 8x7B and 8x22B", "experts, sliding window"),
    Architecture("mpt", "MPT", "ALiBi, layer norm without biases, attention of its own"),
    Architecture("nanochat", "nanochat", "norms without weights, squared ReLU, bounded logits"),
    Architecture(
        "nemotron", "Minitron, Nemotron 3 and 4", "partial rotary, layer norm of 1 + weight, squared ReLU"
    ),
    Architecture("olmo", "OLMo 1", "layer norm without weights, clipped queries, keys and values"),
    Architecture("olmo2", "OLMo 2", "norms after attention and MLP, normed queries and keys"),
    Architecture("olmo3", "OLMo 3", "as OLMo 2, with sliding windows"),
    Architecture("olmoe", "OLMoE", "experts, normed queries and keys"),
    Architecture(
        "opt", "OPT", "learned positions with an offset, projected embeddings, norms before or after"
    ),
    Architecture(
        "persimmon",
        "Persimmon 8B",
        "partial rotary, normed queries and keys, squared ReLU, fused queries, keys and values",
    ),
    Architecture("phi", "Phi-1, Phi-1.5, Phi-2", "partial rotary, attention and MLP in parallel, biases"),
    Architecture("phi3", "Phi-3, Phi-3.5, Phi-4, Phi-4-mini", "fused projections, rotary by length"),
    Architecture(
        "phimoe", "Phi-3.5-MoE", "experts chosen one after the other (SparseMixer), layer norms, biases"
    ),
    Architecture(
        "qwen2",
        "Qwen 1.5, 2, 2.5, QwQ, DeepSeek-R1-Distill-Qwen",
        "biases of queries, keys and values, sliding windows",
    ),
    Architecture("qwen2_5_vl", "Qwen 2.5 VL", "text part, as Qwen 2", TEXT_PARITY),
    Architecture(
        "qwen2_moe",
        "Qwen 1.5 MoE, Qwen 2 57B-A14B",
        "experts, one that all tokens share, layers without experts, biases of queries, keys and values",
    ),
    Architecture("qwen2_vl", "Qwen 2 VL", "text part, as Qwen 2", TEXT_PARITY),
    Architecture("qwen3", "Qwen 3, dense", "normed queries and keys"),
    Architecture(
        "qwen3_moe", "Qwen 3 30B-A3B and 235B-A22B, Qwen 3 Coder", "experts, normed queries and keys"
    ),
    Architecture("qwen3_vl", "Qwen 3 VL, dense", "text part, as Qwen 3", TEXT_PARITY),
    Architecture("seed_oss", "Seed-OSS 36B", "biases of queries, keys and values"),
    Architecture("smollm3", "SmolLM3", "layers without rotary, sliding windows"),
    Architecture("smolvlm", "SmolVLM", "text part, as Llama", TEXT_PARITY),
    Architecture("stablelm", "StableLM 2, Stable Code", "partial rotary, layer norm, parallel residual"),
    Architecture("starcoder2", "StarCoder 2", "biases, sliding window, layer norm"),
    Architecture("vaultgemma", "VaultGemma", "as Gemma 2, without the norms after attention and MLP"),
    Architecture("xglm", "XGLM", "sinusoidal positions, scaled embeddings, attention of its own"),
)

SUPPORTED_MODEL_TYPES = tuple(architecture.model_type for architecture in ARCHITECTURES)


@dataclass(frozen=True)
class Refusal:
    """Model types that cannot be served, and why; the sentence goes on after the name of the type."""

    reason: str
    model_types: tuple[str, ...]


REFUSALS = (
    Refusal(
        "keeps a state (state space, convolution or linear attention) where this server keeps keys and values",
        (
            *(
                "bailing_hybrid",
                "bamba",
                "falcon_h1",
                "falcon_mamba",
                "granitemoehybrid",
                "jamba",
                "kimi_linear",
            ),
            *(
                "lfm2",
                "lfm2_moe",
                "lfm3",
                "mamba",
                "mamba2",
                "minimax",
                "nemotron_h",
                "olmo_hybrid",
                "qwen3_5",
            ),
            *(
                "qwen3_5_moe",
                "qwen3_5_moe_text",
                "qwen3_5_text",
                "qwen3_next",
                "recurrent_gemma",
                "rwkv",
                "xlstm",
            ),
            *("zamba", "zamba2", "zaya"),
        ),
    ),
    Refusal(
        "has an encoder beside its decoder, and this server runs decoders alone",
        (
            *(
                "bart",
                "bigbird_pegasus",
                "blenderbot",
                "blenderbot-small",
                "encoder-decoder",
                "longt5",
                "m2m_100",
            ),
            *("marian", "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet"),
            *("switch_transformers", "t5", "t5gemma", "t5gemma2", "trocr", "umt5", "whisper"),
        ),
    ),
    Refusal(
        "looks at a text from both sides, and does not continue it",
        (
            *(
                "albert",
                "bert",
                "camembert",
                "deberta",
                "deberta-v2",
                "distilbert",
                "electra",
                "ernie",
                "modernbert",
            ),
            *("mpnet", "roberta", "xlm", "xlm-roberta", "xlnet"),
        ),
    ),
    Refusal(
        "keeps keys and values compressed (latent attention), which this server's cache does not",
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu"),
    ),
    Refusal(
        "shares keys and values between layers, which this server's cache does not",
        ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"),
    ),
    Refusal("has no cache in transformers", ("openai-gpt",)),
)


def refusal(model_type: str) -> str:
    """Why a model type that is not in the table is not served, and what is."""
    reasons = [each.reason for each in REFUSALS if model_type in each.model_types]
    why = f": it {reasons[0]}" if reasons else ""
    return f"model type {model_type!r} is not supported{why}. Supported: {supported()}"


def is_multimodal(model_type: str) -> bool:
    """Whether checkpoints of this type have other parts beside the one that writes text, which is served."""
    return any(each.model_type == model_type and each.test == TEXT_PARITY for each in ARCHITECTURES)


def supported() -> str:
    """The list for messages."""
    return ", ".join(SUPPORTED_MODEL_TYPES)
