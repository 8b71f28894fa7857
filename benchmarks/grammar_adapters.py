"""The libraries that `grammar_libraries` compares, behind one interface."""

import json
from typing import Any, Protocol

import llguidance
import llguidance.hf
import numpy as np
import outlines_core
import xgrammar
from outlines_core.json_schema import build_regex_from_schema
from tokenizers.pre_tokenizers import ByteLevel

OPTIONS = {"x-guidance": {"whitespace_pattern": "[ ]?"}}


class Output(Protocol):
    """One output on its way through a grammar. `mask` makes the packed mask, [words] int32."""

    def mask(self) -> np.ndarray: ...

    def advance(self, token_id: int) -> None: ...


class Library(Protocol):
    """Made for one tokenizer. `output` compiles a schema (text) or a regular expression."""

    def output(self, is_schema: bool, text: str) -> Output: ...


class Llguidance:
    def __init__(self, tokenizer: Any) -> None:
        self._table = llguidance.hf.from_tokenizer(tokenizer)

    def output(self, is_schema: bool, text: str) -> "LlguidanceOutput":
        rule = (
            f"%json {json.dumps(json.loads(text) | OPTIONS)}"
            if is_schema
            else f"/{llguidance.regex_to_lark(text, 'dws')}/"
        )
        matcher = llguidance.LLMatcher(
            self._table, f'%llguidance {{"no_forcing": true}}\nstart: {rule}', log_level=0
        )
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return LlguidanceOutput(matcher)


class LlguidanceOutput:
    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def mask(self) -> np.ndarray:
        return np.frombuffer(self._matcher.compute_bitmask(), dtype=np.int32)

    def advance(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


class Xgrammar:
    def __init__(self, tokenizer: Any) -> None:
        self._words = -(-len(tokenizer) // 32)
        self._compiler = xgrammar.CompilationPool(
            xgrammar.TokenizerInfo.from_huggingface(tokenizer), max_threads=2
        )

    def output(self, is_schema: bool, text: str) -> "XgrammarOutput":
        compiler = self._compiler
        compiled = (
            compiler.compile_json_schema(text, any_whitespace=False)
            if is_schema
            else compiler.compile_regex(text)
        )
        return XgrammarOutput(xgrammar.GrammarMatcher(compiled), self._words)


class XgrammarOutput:
    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self._mask = np.empty((1, words), dtype=np.int32)

    def mask(self) -> np.ndarray:
        self._mask.fill(-1)
        self._matcher.fill_next_token_bitmask(self._mask)
        words: np.ndarray = self._mask[0]
        return words

    def advance(self, token_id: int) -> None:
        self._matcher.accept_token(token_id)


class OutlinesCore:
    def __init__(self, tokenizer: Any) -> None:
        letters = {letter: byte for byte, letter in byte_letters().items()}
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        special = set(tokenizer.all_special_ids)
        table: dict[bytes, list[int]] = {}
        for token_id, piece in enumerate(pieces):
            if token_id not in special and all(letter in letters for letter in piece):
                table.setdefault(bytes(letters[letter] for letter in piece), []).append(token_id)
        self._words = -(-len(tokenizer) // 32)
        self._vocabulary = outlines_core.Vocabulary(tokenizer.eos_token_id, table)

    def output(self, is_schema: bool, text: str) -> "OutlinesOutput":
        expression = build_regex_from_schema(text) if is_schema else text
        return OutlinesOutput(
            outlines_core.Guide(outlines_core.Index(expression, self._vocabulary)), self._words
        )


class OutlinesOutput:
    def __init__(self, guide: Any, words: int) -> None:
        self._guide = guide
        self._mask = np.empty(words, dtype=np.int32)

    def mask(self) -> np.ndarray:
        self._guide.write_mask_into(self._mask.ctypes.data, self._mask.size, 4)
        return self._mask

    def advance(self, token_id: int) -> None:
        self._guide.advance(token_id, return_tokens=False)


def byte_letters() -> dict[int, str]:
    """How byte-level BPE spells each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    assert set(letters.values()) == set(ByteLevel.alphabet())
    return letters


LIBRARIES: dict[str, Any] = {"llguidance": Llguidance, "xgrammar": Xgrammar, "outlines-core": OutlinesCore}
