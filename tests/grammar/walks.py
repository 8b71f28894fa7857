"""Outputs that a model could give under a grammar, made without a model: random walks through the allowed tokens."""

import random
from typing import Any

import numpy as np

from text_generation_server.grammar.compilation import CompiledGrammar, compile_grammar
from text_generation_server.grammar.definition import Grammar
from text_generation_server.grammar.matcher import Matcher
from text_generation_server.grammar.vocabulary import PackedMask, Vocabulary
from text_generation_server.text.tokenizer import ModelTokenizer

LONGEST_WALK = 2000


def allowed_ids(mask: PackedMask) -> list[int]:
    bits: list[int] = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    return bits


class Walker:
    """Walks through grammars with the tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos_id = int(tokenizer.eos_token_id)
        self.vocabulary = Vocabulary(
            ModelTokenizer.from_transformers(tokenizer), len(tokenizer), [self.eos_id]
        )
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._closing = {index for index, piece in enumerate(pieces) if set(piece) & set('"}],:')}

    def compiled(self, grammar: Grammar, vocabulary: Vocabulary | None = None) -> CompiledGrammar:
        return compile_grammar(grammar, vocabulary or self.vocabulary)

    def matcher(self, grammar: Grammar) -> Matcher:
        return Matcher(self.compiled(grammar), self.vocabulary)

    def walk(self, grammar: Grammar, seed: int) -> str:
        """The text of one walk to the end. It likes what closes something, so that it comes to an end."""
        matcher = self.matcher(grammar)
        draw = random.Random(seed)
        token_ids: list[int] = []
        while len(token_ids) < LONGEST_WALK:
            allowed = allowed_ids(matcher.allowed())
            if self.eos_id in allowed and (len(allowed) == 1 or draw.random() < 0.3):
                return self.text(token_ids)
            going_on = [token_id for token_id in allowed if token_id != self.eos_id]
            closing = [token_id for token_id in going_on if token_id in self._closing]
            token_ids.append(draw.choice(closing if closing and draw.random() < 0.5 else going_on))
            matcher.advance(token_ids[-1])
        raise AssertionError(f"no end after {LONGEST_WALK} tokens: {self.text(token_ids)[:200]}")

    def accepts(self, grammar: Grammar, text: str) -> bool:
        """Whether a model could give this text, in the tokenizer's own tokens, and end there."""
        matcher = self.matcher(grammar)
        for token_id in self.tokenizer(text, add_special_tokens=False)["input_ids"]:
            if token_id not in allowed_ids(matcher.allowed()):
                return False
            matcher.advance(token_id)
        return self.eos_id in allowed_ids(matcher.allowed())

    def text(self, token_ids: list[int]) -> str:
        """As it comes after other text: at the start of all text, some tokenizers leave out a space."""
        before = self.tokenizer.convert_tokens_to_ids("e")
        decoded: str = self.tokenizer.decode([before, *token_ids], clean_up_tokenization_spaces=False)
        return decoded.removeprefix("e")
