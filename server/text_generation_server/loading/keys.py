"""Keys of the compile cache: what a recorded program, a description or a tokenizer depends on."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

import text_generation_server
from text_generation_server.model.description import ModelSource
from text_generation_server.runtime.cache import key_of

SOURCES = ("engine", "lowering", "model", "sampling", "text")
"""The packages whose code decides what is recorded."""

PACKAGES = ("torch", "torch_xla", "transformers", "tokenizers", "numpy")

CONFIGS = ("config.json", "generation_config.json")


@cache
def code_key() -> str:
    """Changes with the code of the programs, and with the packages that record them."""
    root = Path(text_generation_server.__file__).parent
    digest = hashlib.sha256()
    for package in SOURCES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest() + repr([version(package) for package in PACKAGES])


def model_key(source: ModelSource) -> str:
    """Changes with the model's code and configuration, not with the values of its weights, nor where it is."""
    facts = {name: value for name, value in source.to_json().items() if name != "directory"}
    return key_of(
        "model", code_key(), json.dumps(facts, sort_keys=True), *contents(source.directory, CONFIGS)
    )


def text_key(directory: Path) -> str:
    """Changes with the files that a tokenizer is made from."""
    names = sorted(
        file.name
        for file in directory.iterdir()
        if file.suffix in (".json", ".model", ".txt", ".tiktoken") and "index" not in file.name
    )
    return key_of("text", code_key(), *contents(directory, names))


def contents(directory: Path, names: tuple[str, ...] | list[str]) -> list[bytes]:
    """Names and contents of those files that are there."""
    parts = []
    for name in names:
        file = directory / name
        if file.is_file():
            parts += [name.encode(), file.read_bytes()]
    return parts
