"""One request's way through its grammar."""

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

    def allowed(self) -> PackedMask:
        """The tokens that may come next; the end of the sequence exactly where the output is complete.

        Raises DeadEndError if there is none, or if finding them exceeds a limit.
        """
        mask = self._mask()
        if self._state.is_error():
            self._try_alone()
            mask = self._mask()
        if self._state.is_error():
            raise DeadEndError(reason(self._state.get_error()))
        eos = self._vocabulary.eos
        mask = mask | eos if self._state.is_accepting() else mask & ~eos
        mask &= self._vocabulary.known
        if not mask.any():
            raise DeadEndError("no token of the model can go on here")
        return mask

    def _mask(self) -> PackedMask:
        if not self._is_alone:
            self._compiled.masks += 1
        words = np.frombuffer(self._state.compute_bitmask(), dtype=np.int32)
        return words[: self._vocabulary.words]

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
