"""The model types that are served: one line each. No torch and no transformers here.

Models are transformers' own classes, unmodified. A line is added once the test that it names compares the
model's tokens with transformers' `generate`. docs/models.md is made from this table.
"""

from dataclasses import dataclass

PARITY = "test_an_architecture_generates_what_transformers_generates"
"""Of tests/engine/test_architectures.py, which runs every line."""


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
    Architecture("cohere", "Command R", "attention and MLP in parallel, interleaved rotary, scaled logits"),
    Architecture("gemma", "Gemma, CodeGemma", "scaled embeddings, norms of 1 + weight"),
    Architecture("gemma2", "Gemma 2", "sliding windows, bounded scores and logits"),
    Architecture(
        "gemma3_text",
        "Gemma 3, text only",
        "sliding windows, two rotary frequencies, normed queries and keys",
    ),
    Architecture("gpt2", "GPT-2", "learned positions, transposed linear layers, biases"),
    Architecture(
        "gpt_neox", "GPT-NeoX, Pythia", "partial rotary, parallel residual, fused queries, keys and values"
    ),
    Architecture("granite", "Granite 3", "multipliers of embeddings, scores, residuals and logits"),
    Architecture("llama", "Llama 1 to 3.3, SmolLM, TinyLlama, Yi, and others", "grouped key heads"),
    Architecture("mistral", "Mistral 7B, Mistral Nemo, Mistral Small", "sliding window"),
    Architecture("olmo2", "OLMo 2", "norms after attention and MLP, normed queries and keys"),
    Architecture("phi3", "Phi-3, Phi-4", "fused projections"),
    Architecture(
        "qwen2", "Qwen 1.5, Qwen 2, Qwen 2.5, QwQ", "biases of queries, keys and values, sliding windows"
    ),
    Architecture("qwen3", "Qwen 3", "normed queries and keys"),
    Architecture("starcoder2", "StarCoder 2", "biases, sliding window, layer norm"),
)

SUPPORTED_MODEL_TYPES = tuple(architecture.model_type for architecture in ARCHITECTURES)


def supported() -> str:
    """The list for messages."""
    return ", ".join(SUPPORTED_MODEL_TYPES)
