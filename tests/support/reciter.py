"""A model that recites a document by its bytes, in tokens of its own choice."""

import random
import re
from collections.abc import Sequence
from typing import Any

from support import small_tokenizers
from support.small_tokenizers import LLAMA_SPACE
from text_generation_server.batching.generator import Generator
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.text.tokenizer import ModelTokenizer


def reciting_generator(tokenizer: Any, document: str, seed: int) -> Generator:
    """A generator over a fake engine that continues every beginning of the document."""
    engine = FakeEngine(
        next_token=Reciter(tokenizer, document, seed), vocab_size=len(tokenizer), max_length=4000
    )
    return Generator(engine, ModelTokenizer.from_transformers(tokenizer), frozenset({tokenizer.eos_token_id}))


class Reciter:
    """Continues every beginning of a document to its end, one token of random length at a time; then comes EOS.

    It fails if what it is shown is not the document's beginning.
    """

    def __init__(self, tokenizer: Any, document: str, seed: int) -> None:
        self._tokenizer = tokenizer
        self._document = document.encode()
        self._seed = seed
        self._bytes = {token_id: bytes_of(tokenizer, token_id) for token_id in range(len(tokenizer))}

    def __call__(self, history: Sequence[int]) -> int:
        shown = b"".join(self._bytes[token_id] for token_id in history)
        if self._tokenizer.unk_token:
            # Sentencepiece tokenizers put a space before every text.
            shown = shown.removeprefix(b" ")
        assert self._document.startswith(shown), f"{shown.decode(errors='replace')!r} is not how it begins"
        left = self._document[len(shown) :]
        fitting = [token for token, raw in self._bytes.items() if raw and left.startswith(raw)]
        chance = random.Random(f"{self._seed} {history}")
        return chance.choice(fitting) if left else int(self._tokenizer.eos_token_id)


def bytes_of(tokenizer: Any, token_id: int) -> bytes:
    """What a token stands for; nothing if it is special."""
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.added_tokens_decoder or token == tokenizer.unk_token:
        return b""
    if tokenizer.unk_token is None:
        return bytes(small_tokenizers.byte_level_alphabet().index(character) for character in token)
    if byte := re.fullmatch("<0x(..)>", token):
        return bytes.fromhex(byte[1])
    return str(token).replace(LLAMA_SPACE, " ").encode()


def known_characters(tokenizer: Any, text: str) -> str:
    """`text` without the characters for which the tokenizer has nothing but its unknown token."""
    known = "".join(c for c in text if tokenizer.unk_token_id not in tokenizer(c)["input_ids"])
    return known.strip() or "the"
