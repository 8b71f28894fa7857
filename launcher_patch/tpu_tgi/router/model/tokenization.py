"""The router's own tokenizer, which counts the tokens of prompts."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizers import Tokenizer

from tpu_tgi.router.errors import RouterStartError


def load_tokenizer(directory: Path) -> Tokenizer:
    """The fast tokenizer of a model, converted if there is no tokenizer.json.

    Raises RouterStartError if there is none.
    """
    file = directory / "tokenizer.json"
    return read(file) if file.is_file() else convert(directory)


def read(file: Path) -> Tokenizer:
    """Raises RouterStartError for a file that is damaged."""
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # The library raises nothing narrower.
        raise RouterStartError(f"{file} cannot be read: {error}") from error


def convert(directory: Path) -> Tokenizer:
    """Through transformers, which knows how to build a fast tokenizer from older files."""
    # Imported only here: it takes seconds and hundreds of megabytes, and most models have a tokenizer.json.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True)
    except (OSError, ValueError) as error:
        raise RouterStartError(f"No tokenizer could be loaded from {directory}: {error}") from error
    if not tokenizer.is_fast:
        raise RouterStartError(f"{directory} has no fast tokenizer: add a tokenizer.json to the model")
    backend: Tokenizer = tokenizer.backend_tokenizer
    return backend


class Tokenization:
    """Tokenises in threads of its own, so that a long prompt does not hold up the others.

    A call of the library for one text keeps Python's global lock for as long as it takes; those for batches give it
    back.
    """

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

    async def tokens_json(self, text: str, add_special_tokens: bool) -> bytearray:
        """The tokens of the whole text as a JSON array of `TextTokenBody`, each with its place in it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._tokens_json, text, add_special_tokens
        )

    def _tokens_json(self, text: str, add_special_tokens: bool) -> bytearray:
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        # All places at once, or a list of all pieces, would be made or freed in one go, while nobody else is served.
        answer = bytearray(b"[")
        at, byte = 0, 0
        for index, token_id in enumerate(encoding.ids):
            start, stop = encoding.token_to_chars(index) or (0, 0)
            # The library counts characters. Tokens come in order, but for added ones.
            between = text[at:start] if start >= at else text[start:at]
            byte += len(between.encode()) if start >= at else -len(between.encode())
            at = start
            piece = text[start:stop]
            place = f'"start":{byte},"stop":{byte + len(piece.encode())}'
            answer += f'{{"id":{token_id},"text":{json.dumps(piece, ensure_ascii=False)},{place}}},'.encode()
        if len(answer) > 1:
            answer.pop()
        answer += b"]"
        return answer

    def _count(self, text: str, add_special_tokens: bool) -> int:
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0])

    def close(self) -> None:
        self._threads.shutdown(wait=False)
