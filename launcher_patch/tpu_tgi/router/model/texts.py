"""What the router reads of a model: its tokenizer and its chat template."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from tpu_tgi.router.chat.template_source import TemplateSource, find_template
from tpu_tgi.router.model.tokenization import load_tokenizer


@dataclass(frozen=True)
class ModelTexts:
    """Read once, before the shard is started."""

    tokenizer: Tokenizer
    template: TemplateSource


def load_texts(directory: Path, tokenizer_config_path: str | None) -> ModelTexts:
    """Raises RouterStartError if there is no tokenizer, or a file that was named cannot be read."""
    return ModelTexts(load_tokenizer(directory), find_template(directory, tokenizer_config_path))
