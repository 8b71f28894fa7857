"""However bad a grammar is: compiling it and following it is bounded in time and memory, and harms no other."""

import json
import random
import time
from pathlib import Path

import pytest

from grammar.walks import Walker, allowed_ids
from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar import trial
from text_generation_server.grammar.compilation import compile_grammar
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.matcher import DeadEndError, Matcher

MANY_STATES = r"(.*a.{30}b|.*b.{30}a|.*e.{40}e)"
"""It must keep track of the last 40 characters."""

CATASTROPHIC = [
    r"(a?){30}a{30}",
    r"(a*)*b",
    r"(a|a)*b",
    r"(x+x+)+y",
    r"(.*a){20}",
    r"(a|b)*a(a|b){25}",
    MANY_STATES,
    r"(((((a{1,100}b?){1,100}c?){1,100}d?){1,100}e?){1,100}f?){1,100}",
    r"(?:.{0,50}a.{0,50}|.{0,70}b.{0,20}){1,100}",
    r"a{99999999}",
    r"(\p{L}|\p{N}|\p{S}| ){500}[^\p{L}]{500}",
    r"[ \t\n]*\{[ \t\n]*\}[ \t\n]*",
    "a" * 500_000,
]
SECONDS_A_STEP = 0.5
"""On a busy machine; 10 ms are usual for the worst of these."""


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("text", CATASTROPHIC, ids=lambda text: text[:30])
def test_a_catastrophic_expression_is_followed_in_bounded_time_and_memory(walker: Walker, text: str) -> None:
    before = memory_bytes()
    started = time.monotonic()
    matcher = walker.matcher(Grammar(GrammarKind.REGEX, text))
    assert time.monotonic() - started < 10 * SECONDS_A_STEP
    try:
        for _ in range(100):
            started = time.monotonic()
            allowed = [token_id for token_id in allowed_ids(matcher.allowed()) if token_id != walker.eos_id]
            if not allowed:
                break
            matcher.advance(allowed[len(allowed) // 3])
            assert time.monotonic() - started < SECONDS_A_STEP
    except DeadEndError as error:
        assert "too many" in str(error)  # noqa: PT017 - it may be followed to the end as well
    assert memory_bytes() - before < 500 * 2**20


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 999_999_937},
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{count}}}"} for count in range(2, 16)]},
    ],
    ids=["divisor", "intersection"],
)
def test_a_schema_that_takes_too_long_is_given_up(
    walker: Walker, schema: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(InvalidRequestError, match=r"to compile; simplify it|fuel exhausted"):
        compile_grammar(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)), walker.vocabulary)
    assert time.monotonic() - started < 4


def exhaust(matcher: Matcher, letters: list[int]) -> None:
    """Follows a text of which each token makes new states."""
    draw = random.Random(1)
    for _ in range(5000):
        matcher.allowed()
        matcher.advance(draw.choice(letters))


def test_an_output_that_exhausts_its_grammar_leaves_others_of_the_same_grammar_alone(walker: Walker) -> None:
    compiled = compile_grammar(Grammar(GrammarKind.REGEX, MANY_STATES), walker.vocabulary)
    letters = [walker.tokenizer.convert_tokens_to_ids(letter) for letter in "abexyz"]
    modest = Matcher(compiled, walker.vocabulary)
    modest.advance(letters[0])
    greedy = Matcher(compiled, walker.vocabulary)
    with pytest.raises(DeadEndError, match="too many"):
        exhaust(greedy, letters)
    alone = Matcher(
        compile_grammar(Grammar(GrammarKind.REGEX, MANY_STATES), walker.vocabulary), walker.vocabulary
    )
    alone.advance(letters[0])
    late = Matcher(compiled, walker.vocabulary)
    late.advance(letters[0])
    for _ in range(5):
        expected = allowed_ids(alone.allowed())
        assert allowed_ids(modest.allowed()) == expected
        assert allowed_ids(late.allowed()) == expected
        for matcher in (alone, modest, late):
            matcher.advance(letters[1])
