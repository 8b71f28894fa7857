"""The part of a multimodal checkpoint that writes text: its configuration, and its tensors among all of them.

What sees or hears is not loaded. A text has the same position in all dimensions of a picture, so the rotary embeddings
of Qwen's models for pictures are those of their models for text.
"""

import re
from typing import Any

from transformers import Qwen2Config, Qwen3Config

AS_TEXT_MODELS = {
    "qwen2_vl_text": Qwen2Config,
    "qwen2_5_vl_text": Qwen2Config,
    "qwen3_vl_text": Qwen3Config,
}
"""Text parts of which transformers has no class with a head, and the models for text that compute the same."""

OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|connector|image_newline)(\.|$)"
)
WITHIN_DECODER = re.compile(r"^model\.(language_model|text_model)\.")
WITHIN_MODEL = re.compile(r"^language_model\.(model|lm_head)\.")


def text_config(config: Any) -> Any:
    """The configuration of the part that writes text, as that of a model of its own."""
    text = config.get_text_config()
    text.tie_word_embeddings = config.tie_word_embeddings
    kind = AS_TEXT_MODELS.get(text.model_type)
    if kind is None:
        return text
    known = kind().to_dict()
    fields = {name: value for name, value in text.to_dict().items() if name in known and name != "model_type"}
    rope = {k: v for k, v in text.rope_parameters.items() if not k.startswith("mrope")}
    return kind(
        **{**fields, "rope_parameters": {**rope, "rope_type": plain(rope.get("rope_type", "default"))}}
    )


def plain(rope_type: str) -> str:
    """Older configurations of Qwen name the kind of positions here."""
    return "default" if rope_type == "mrope" else rope_type


def text_tensor(name: str) -> str | None:
    """The name of a tensor of a multimodal checkpoint in a model of its text part; None: it belongs to another part."""
    if OTHER_PARTS.match(name):
        return None
    return WITHIN_MODEL.sub(r"\1.", WITHIN_DECODER.sub("model.", name))
