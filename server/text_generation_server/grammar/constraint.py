"""What holds one request's output to its grammar, from the compilation to the last token."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from loguru import logger

from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.compilation import CompiledGrammar, invalid
from text_generation_server.grammar.matcher import DeadEndError, Matcher
from text_generation_server.grammar.vocabulary import PackedMask, Vocabulary

LONGEST_WAIT = 30.0
"""Seconds that a request waits for its grammar, which may have to wait for other grammars."""


class Constraint:
    """One request's grammar. It is compiling, then ready, unless it fails; then no mask is needed any more.

    Attributes:
        compiling: done once the grammar is compiled, or cannot be.
    """

    def __init__(
        self,
        compiling: Future[CompiledGrammar],
        vocabulary: Vocabulary,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_close` is called once, when the request is over."""
        self.compiling = compiling
        self._on_close: Callable[[], None] | None = on_close
        self._vocabulary = vocabulary
        self._deadline = time.monotonic() + LONGEST_WAIT
        self._matcher: Matcher | None = None
        self._failure: str | None = None

    @property
    def words(self) -> int:
        """Length of its masks."""
        return self._vocabulary.words

    @property
    def is_ready(self) -> bool:
        """The output can be followed."""
        return self._matcher_if_ready() is not None

    @property
    def failure(self) -> str | None:
        """Why the request cannot be served (any more)."""
        self._matcher_if_ready()
        return self._failure

    def close(self) -> None:
        """The request is over, or nobody waits for it any more."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def advance(self, token_id: int) -> None:
        """Takes a token in; sets `failure` if the grammar does not allow it there."""
        try:
            self._ready_matcher().advance(token_id)
        except DeadEndError as error:
            self._failure = f"The output cannot follow its `grammar`: {error}"

    def allowed(self) -> PackedMask | None:
        """The tokens that may come next. Sets `failure` and returns None if that cannot be told, or there is none."""
        try:
            return self._ready_matcher().allowed()
        except DeadEndError as error:
            self._failure = f"The output cannot follow its `grammar`: {error}"
            return None

    def agrees_with(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens may come next, in their order."""
        return self._ready_matcher().agrees_with(token_ids)

    def ahead(self, token_ids: Sequence[int]) -> list[PackedMask]:
        """What may come behind each of these tokens, see `Matcher.ahead`; nothing is taken in."""
        return self._ready_matcher().ahead(token_ids)

    def _ready_matcher(self) -> Matcher:
        matcher = self._matcher_if_ready()
        if matcher is None:
            raise RuntimeError("the grammar is not compiled yet, or has failed")
        return matcher

    def _matcher_if_ready(self) -> Matcher | None:
        if self._failure is not None:
            return None
        if self._matcher is None:
            if self.compiling.done():
                self._take_result()
            elif time.monotonic() > self._deadline:
                why = f"it waited more than {LONGEST_WAIT:.0f} s for other grammars; try again later"
                self._failure = str(invalid(why))
        return self._matcher

    def _take_result(self) -> None:
        try:
            self._matcher = Matcher(self.compiling.result(), self._vocabulary)
        except InvalidRequestError as error:
            self._failure = str(error)
        except Exception as error:  # noqa: BLE001 - logged whole, and told to the one whom it concerns
            logger.opt(exception=error).error("A grammar could not be compiled, which is a defect")
            self._failure = str(invalid(f"{type(error).__name__}: {error}"))


def wait_for_all(constraints: Iterable[Constraint], seconds: float) -> None:
    """Waits until all are compiled or have failed, but no longer than that."""
    wait([constraint.compiling for constraint in constraints], timeout=seconds)


def wait_for_one(constraints: Iterable[Constraint], seconds: float) -> None:
    """Waits until one of them is compiled or has failed, but no longer than that."""
    wait([constraint.compiling for constraint in constraints], timeout=seconds, return_when=FIRST_COMPLETED)
