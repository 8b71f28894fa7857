"""What the router reads of a model: its tokenizer, its chat template, and whether it was made to see."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.architectures import is_multimodal
from text_generation_server.model.checkpoint import raw_config
from tpu_tgi.router.chat.template_source import TemplateSource, find_template
from tpu_tgi.router.model.tokenization import load_tokenizer


@dataclass(frozen=True)
class ModelTexts:
    """Read once, before the shard is started.

    `multimodal`: the checkpoint has a vision tower too, which is not served.
    """

    tokenizer: Tokenizer
    template: TemplateSource
    multimodal: bool


def load_texts(directory: Path, tokenizer_config_path: str | None) -> ModelTexts:
    """Raises RouterStartError if there is no tokenizer, or a file that was named cannot be read."""
    tokenizer, template = load_tokenizer(directory), find_template(directory, tokenizer_config_path)
    return ModelTexts(tokenizer, template, is_multimodal(model_type(directory)))


def model_type(directory: Path) -> str:
    """Of config.json; empty if it says nothing, which the shard refuses."""
    try:
        return str(raw_config(directory).get("model_type"))
    except UnsupportedModelError:
        return ""
