"""Where a model's chat template stands (HTTP reference, section 6.1)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from tpu_tgi.router.errors import RouterStartError


@dataclass(frozen=True)
class TemplateSource:
    """The text of the template, None if the model has none, and the tokens that it may write."""

    text: str | None
    bos_token: str | None = None
    eos_token: str | None = None


def find_template(directory: Path, tokenizer_config_path: str | None) -> TemplateSource:
    """The first template of chat_template.json, tokenizer_config.json, processor_config.json, as stock routers
    have it, and then chat_template.jinja, which they do not read.

    Raises RouterStartError if `tokenizer_config_path` is given and cannot be read.
    """
    config = read_json(given_config(tokenizer_config_path) or directory / "tokenizer_config.json")
    standalone = read_json(directory / "chat_template.json")
    processor = read_json(directory / "processor_config.json")
    if "image_seq_len" not in processor:
        processor = {}
    found = (default_template(place.get("chat_template")) for place in (standalone, config, processor))
    text = next((text for text in found if text is not None), None)
    if text is None and (jinja := directory / "chat_template.jinja").is_file():
        text = jinja.read_text(encoding="utf-8")
    return TemplateSource(text, token(config.get("bos_token")), token(config.get("eos_token")))


def given_config(path: str | None) -> Path | None:
    if path is not None and not Path(path).is_file():
        raise RouterStartError(f"`--tokenizer-config-path {path}` is not a file")
    return None if path is None else Path(path)


def read_json(file: Path) -> dict[str, Any]:
    """Empty for a file that does not exist or is damaged: only chats need it."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        logger.warning("{} is not read: {}", file, error)
        return {}
    return content if isinstance(content, dict) else {}


def default_template(value: Any) -> str | None:
    """A template, or the one that is named `default` among several."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict) and entry.get("name") == "default":
                return default_template(entry.get("template"))
    return None


def token(value: Any) -> str | None:
    """A token is written as a string, or as an object with a `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
