"""Compiles grammars beside the running batch, each one once."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.compilation import CompiledGrammar, compile_grammar
from text_generation_server.grammar.constraint import Constraint
from text_generation_server.grammar.definition import Grammar
from text_generation_server.grammar.vocabulary import Vocabulary

THREADS = 2
"""Grammars that are compiled at a time; the others wait."""

CACHE_SIZE = 64
"""Grammars that are kept, those that cannot be compiled included; the one not used for longest goes first."""


class GrammarCompiler:
    """Gives each request with a grammar its constraint at once, and compiles in threads of its own."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")
        self._compiled: OrderedDict[Grammar, Future[CompiledGrammar]] = OrderedDict()

    def constraint(self, grammar: Grammar) -> Constraint:
        """A new constraint, whose grammar may still be compiling.

        Raises InvalidRequestError if this model cannot have grammars.
        """
        self._vocabulary.check()
        compiling = self._compiled.get(grammar)
        if compiling is None or failed_for_another_reason(compiling):
            compiling = self._threads.submit(compile_grammar, grammar, self._vocabulary)
            self._compiled[grammar] = compiling
            if len(self._compiled) > CACHE_SIZE:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return Constraint(compiling, self._vocabulary)


def failed_for_another_reason(compiling: Future[CompiledGrammar]) -> bool:
    """True if the failure says nothing of the grammar, for example that no process could be started."""
    error = compiling.exception() if compiling.done() else None
    return error is not None and not isinstance(error, InvalidRequestError)
