"""Compiles grammars beside the running batch, each one once, as long as somebody waits for it."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.compilation import CompiledGrammar, bytes_of_source, compile_grammar
from text_generation_server.grammar.constraint import Constraint
from text_generation_server.grammar.definition import Grammar
from text_generation_server.grammar.vocabulary import Vocabulary

THREADS = 2
"""Grammars that are compiled at a time; the others wait."""

CACHE_SIZE = 64
"""Grammars that are kept, those that cannot be compiled included; the one not used for longest goes first."""

CACHE_BYTES = 320 * 2**20
"""What they may take together, by estimate, but for the one that was used last."""


@dataclass
class CachedGrammar:
    """A grammar that is compiled, or will be.

    Attributes:
        users: constraints that are not closed.
    """

    compiling: Future[CompiledGrammar]
    users: int = 0


class CompilationPool:
    """Gives each request with a grammar its constraint at once, and compiles in threads of its own."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")
        self._cached: OrderedDict[Grammar, CachedGrammar] = OrderedDict()

    def constraint(self, grammar: Grammar) -> Constraint:
        """A new constraint, whose grammar may still be compiling. It is to be closed.

        Raises InvalidRequestError if this model cannot have grammars.
        """
        self._vocabulary.check()
        cached = self._cached.get(grammar)
        if cached is None or failed_for_another_reason(cached.compiling):
            cached = CachedGrammar(self._threads.submit(compile_grammar, grammar, self._vocabulary))
            self._cached[grammar] = cached
        self._cached.move_to_end(grammar)
        self._evict()
        cached.users += 1
        return Constraint(cached.compiling, self._vocabulary, partial(self._closed, grammar, cached))

    def _evict(self) -> None:
        """Forgets what was not used for longest; requests that run keep theirs until they end."""
        total = sum(estimated_bytes(*item) for item in self._cached.items())
        while len(self._cached) > CACHE_SIZE or (total > CACHE_BYTES and len(self._cached) > 1):
            total -= estimated_bytes(*self._cached.popitem(last=False))

    def _closed(self, grammar: Grammar, cached: CachedGrammar) -> None:
        """Cancels a compilation that has not begun and that nobody waits for any more."""
        cached.users -= 1
        if cached.users == 0 and cached.compiling.cancel() and self._cached.get(grammar) is cached:
            del self._cached[grammar]


def failed_for_another_reason(compiling: Future[CompiledGrammar]) -> bool:
    """True if the failure says nothing of the grammar, for example that no process could be started."""
    error = compiling.exception() if compiling.done() and not compiling.cancelled() else None
    return error is not None and not isinstance(error, InvalidRequestError)


def estimated_bytes(grammar: Grammar, cached: CachedGrammar) -> int:
    """What a grammar takes, or will once it is compiled."""
    compiling = cached.compiling
    if compiling.done() and not compiling.cancelled() and compiling.exception() is None:
        return compiling.result().estimated_bytes
    return bytes_of_source(grammar.text)
