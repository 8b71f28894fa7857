"""What is kept of a compilation: its result, and what it says of the grammar, but not the machine's troubles."""

import subprocess

import pytest

from grammar.walks import Walker
from text_generation_server.grammar.compiler import GrammarCompiler
from text_generation_server.grammar.constraint import Constraint, wait_for_all
from text_generation_server.grammar.definition import Grammar, GrammarKind

SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer"}')
BAD = Grammar(GrammarKind.REGEX, "(")


@pytest.fixture
def compiler(walker: Walker) -> GrammarCompiler:
    return GrammarCompiler(walker.vocabulary)


def compiled(compiler: GrammarCompiler, grammar: Grammar) -> Constraint:
    constraint = compiler.constraint(grammar)
    wait_for_all([constraint], 30)
    return constraint


@pytest.mark.parametrize("grammar", [SCHEMA, BAD], ids=["good", "bad"])
def test_a_grammar_is_compiled_once(compiler: GrammarCompiler, grammar: Grammar) -> None:
    first, second = compiled(compiler, grammar), compiled(compiler, grammar)
    assert first.compiling is second.compiling
    assert first.failure == second.failure


def test_a_grammar_is_compiled_again_after_a_trouble_that_was_not_its_own(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*arguments: object, **options: object) -> None:
        raise OSError("Cannot allocate memory")

    with monkeypatch.context() as trouble:
        trouble.setattr(subprocess, "run", no_process)
        assert "Cannot allocate memory" in str(compiled(compiler, SCHEMA).failure)
    again = compiled(compiler, SCHEMA)
    assert again.failure is None
    assert again.is_ready


def test_what_was_not_used_for_longest_is_compiled_anew(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_generation_server.grammar.compiler.CACHE_SIZE", 2)
    kept, first, second = (Grammar(GrammarKind.REGEX, letter) for letter in "abc")
    futures = [compiled(compiler, grammar).compiling for grammar in (kept, first, kept, second)]
    assert compiled(compiler, kept).compiling is futures[0]
    assert compiled(compiler, first).compiling is not futures[1]
