"""The table of all tokens as bytes, which every mask is made from."""

import time
from collections.abc import Iterable

import llguidance
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from text_generation_server.errors import InvalidRequestError
from text_generation_server.sampling.packing import WORD_BITS
from text_generation_server.sampling.packing import words as words_of
from text_generation_server.text.tokenizer import ModelTokenizer

PackedMask = NDArray[np.int32]
"""[words]: bit i of word w says whether token `WORD_BITS * w + i` is allowed."""


class Vocabulary:
    """The tokens of one model, made once when the shard starts: a second for 150,000 tokens.

    Attributes:
        eos: mask of the end-of-sequence tokens.
        known: mask of all tokens that the model has.
        words: length of a mask.
    """

    def __init__(self, tokenizer: ModelTokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """`vocab_size`: the model's, which may be larger or smaller than the tokenizer's."""
        eos = sorted(token_id for token_id in eos_token_ids if token_id < vocab_size)
        self.words = words_of(vocab_size)
        self.eos = pack(eos, self.words)
        self.known = pack(range(vocab_size), self.words)
        self._table: llguidance.LLTokenizer | None = None
        self._problem = "" if eos else "this model has no end-of-sequence token, which a grammar needs"
        if not eos:
            return
        started = time.monotonic()
        try:
            self._table = llguidance.LLTokenizer(
                tokenizer.backend.to_str(), n_vocab=max(vocab_size, len(tokenizer)), eos_token=eos
            )
        except (ValueError, TypeError, RuntimeError) as error:
            self._problem = f"the tokenizer of this model cannot be used for one: {error}"
            logger.warning("Requests with a grammar will be refused: {}", self._problem)
            return
        logger.info("Prepared {} tokens for grammars in {:.1f} s", vocab_size, time.monotonic() - started)

    @property
    def table(self) -> "llguidance.LLTokenizer":
        """The library's table. InvalidRequestError if this model cannot have grammars."""
        self.check()
        assert self._table is not None
        return self._table

    def check(self) -> None:
        """Raises InvalidRequestError if this model cannot have grammars."""
        if self._table is None:
            raise InvalidRequestError(f"`grammar` must be absent: {self._problem}. Given: a grammar")


def pack(token_ids: Iterable[int], words: int) -> PackedMask:
    """The mask of these tokens."""
    bits = np.zeros(words * WORD_BITS, dtype=np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)
