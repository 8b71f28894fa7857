"""What is kept of a compilation: its result, and what it says of the grammar, but not the machine's troubles."""

import subprocess

import pytest

from grammar.walks import Walker
from text_generation_server.grammar.constraint import Constraint, wait_for_all
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.pool import CompilationPool

SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer"}')
BAD = Grammar(GrammarKind.REGEX, "(")


@pytest.fixture
def pool(walker: Walker) -> CompilationPool:
    return CompilationPool(walker.vocabulary)


def compiled(pool: CompilationPool, grammar: Grammar) -> Constraint:
    constraint = pool.constraint(grammar)
    wait_for_all([constraint], 30)
    return constraint


@pytest.mark.parametrize("grammar", [SCHEMA, BAD], ids=["good", "bad"])
def test_a_grammar_is_compiled_once(pool: CompilationPool, grammar: Grammar) -> None:
    first, second = compiled(pool, grammar), compiled(pool, grammar)
    assert first.compiling is second.compiling
    assert first.failure == second.failure


def test_a_grammar_is_compiled_again_after_a_trouble_that_was_not_its_own(
    pool: CompilationPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*arguments: object, **options: object) -> None:
        raise OSError("Cannot allocate memory")

    with monkeypatch.context() as trouble:
        trouble.setattr(subprocess, "run", no_process)
        assert "Cannot allocate memory" in str(compiled(pool, SCHEMA).failure)
    again = compiled(pool, SCHEMA)
    assert again.failure is None
    assert again.is_ready


def test_what_was_not_used_for_longest_is_compiled_anew(
    pool: CompilationPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_generation_server.grammar.pool.CACHE_SIZE", 2)
    kept, first, second = (Grammar(GrammarKind.REGEX, letter) for letter in "abc")
    futures = [compiled(pool, grammar).compiling for grammar in (kept, first, kept, second)]
    assert compiled(pool, kept).compiling is futures[0]
    assert compiled(pool, first).compiling is not futures[1]


def test_the_cache_is_bounded_in_bytes_whatever_is_asked_for(
    pool: CompilationPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_generation_server.grammar.pool.CACHE_BYTES", 2**21)
    large, small, other = (Grammar(GrammarKind.REGEX, text) for text in ("a" * 20_000, "b", "c" * 10_000))
    futures = [compiled(pool, grammar).compiling for grammar in (large, small, other)]
    assert compiled(pool, small).compiling is futures[1]
    assert compiled(pool, other).compiling is futures[2]
    assert compiled(pool, large).compiling is not futures[0]
