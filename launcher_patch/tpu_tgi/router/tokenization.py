"""The router's own tokenizer, which counts the tokens of prompts."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import Tokenizer

from tpu_tgi.router.errors import RouterStartError


def load_tokenizer(model_id: str, revision: str | None) -> Tokenizer:
    """The fast tokenizer of a local directory or of a hub model, converted if there is no tokenizer.json.

    Raises RouterStartError if there is none.
    """
    directory = Path(model_id)
    if directory.is_dir():
        file = directory / "tokenizer.json"
        return read(file) if file.is_file() else convert(model_id, None)
    try:
        return read(Path(hf_hub_download(model_id, "tokenizer.json", revision=revision)))
    except EntryNotFoundError:
        return convert(model_id, revision)
    except OSError as error:
        raise no_tokenizer(model_id, error) from error


def read(file: Path) -> Tokenizer:
    """Raises RouterStartError for a file that is damaged."""
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # The library raises nothing narrower.
        raise RouterStartError(f"{file} cannot be read: {error}") from error


def no_tokenizer(model_id: str, error: Exception) -> RouterStartError:
    return RouterStartError(f"No tokenizer could be loaded for `--model-id {model_id}`: {error}")


def convert(model_id: str, revision: str | None) -> Tokenizer:
    """Through transformers, which knows how to build a fast tokenizer from older files."""
    # Imported only here: it takes seconds and hundreds of megabytes, and most models have a tokenizer.json.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id, revision=revision, use_fast=True)
    except (OSError, ValueError) as error:
        raise no_tokenizer(model_id, error) from error
    if not tokenizer.is_fast:
        raise RouterStartError(
            f"`--model-id {model_id}` has no fast tokenizer: add a tokenizer.json to the model"
        )
    backend: Tokenizer = tokenizer.backend_tokenizer
    return backend


@dataclass(frozen=True)
class TextToken:
    """A token of a text. `start` and `stop` are its place in bytes of UTF-8; both are 0 for an added token."""

    id: int
    text: str
    start: int
    stop: int


class Tokenization:
    """Tokenises in threads of its own, so that a long prompt does not hold up the others."""

    def __init__(self, tokenizer: Tokenizer, workers: int) -> None:
        # The limits that a tokenizer.json may carry are not the server's.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenization")

    async def count(self, text: str, add_special_tokens: bool) -> int:
        """The number of tokens of the whole text."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._count, text, add_special_tokens
        )

    async def split(self, text: str, add_special_tokens: bool) -> list[TextToken]:
        """The tokens of the whole text, each with its place in it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._split, text, add_special_tokens
        )

    def _split(self, text: str, add_special_tokens: bool) -> list[TextToken]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        # The library counts characters.
        byte = list(accumulate(map(len, map(str.encode, text)), initial=0))
        return [
            TextToken(token_id, text[start:stop], byte[start], byte[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def _count(self, text: str, add_special_tokens: bool) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
