"""One request's way through its grammar."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from text_generation_server.grammar.compilation import CompiledGrammar, new_matcher, reason
from text_generation_server.grammar.vocabulary import PackedMask, Vocabulary

if TYPE_CHECKING:
    import llguidance

import numpy as np


class DeadEndError(Exception):
    """The output cannot go on, or can only at too high a cost."""


class Matcher:
    """Follows one output, token by token."""

    def __init__(self, compiled: CompiledGrammar, vocabulary: Vocabulary) -> None:
        self._compiled = compiled
        self._vocabulary = vocabulary
        self._token_ids: list[int] = []
        self._state: llguidance.LLMatcher = compiled.start.deep_copy()
        self._is_alone = False

    def advance(self, token_id: int) -> None:
        """Takes a token in. Raises DeadEndError if the grammar does not allow it there."""
        self._token_ids.append(token_id)
        if not self._state.consume_token(token_id):
            self._try_alone()

    def agrees_with(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens the grammar allows next, in their order."""
        return self._state.validate_tokens(list(token_ids))

    def ahead(self, token_ids: Sequence[int]) -> list[PackedMask]:
        """What may come behind each of these tokens, in their order; the output stays where it is.

        It ends before the first one that the grammar does not allow, or behind which nothing comes.
        """
        state, masks = self._state.deep_copy(), list[PackedMask]()
        for token_id in token_ids:
            if state.validate_tokens([token_id]) != 1 or not state.consume_token(token_id):
                break
            mask = self._mask(state)
            if state.is_error() or not mask.any():
                break
            masks.append(mask)
        return masks

    def allowed(self) -> PackedMask:
        """The tokens that may come next; the end of the sequence exactly where the output is complete.

        Raises DeadEndError if there is none, or if finding them exceeds a limit.
        """
        mask = self._mask(self._state)
        if self._state.is_error():
            self._try_alone()
            mask = self._mask(self._state)
        if self._state.is_error():
            raise DeadEndError(reason(self._state.get_error()))
        if not mask.any():
            raise DeadEndError("no token of the model can go on here")
        return mask

    def _mask(self, state: "llguidance.LLMatcher") -> PackedMask:
        """What may come there; it means nothing if that is an error now."""
        if not self._is_alone:
            self._compiled.masks += 1
        words = np.frombuffer(state.compute_bitmask(), dtype=np.int32)
        mask, eos = words[: self._vocabulary.words], self._vocabulary.eos
        return (mask | eos if state.is_accepting() else mask & ~eos) & self._vocabulary.known

    def _try_alone(self) -> None:
        """Makes the automaton anew: states count for all outputs of a grammar together, and another may have made them.

        Raises DeadEndError if this output alone exceeds a limit too.
        """
        if not self._is_alone:
            self._is_alone = True
            self._state = new_matcher(self._compiled.source, self._vocabulary)
            if self._state.consume_tokens(self._token_ids):
                return
        raise DeadEndError(reason(self._state.get_error()))
