"""Outputs under a regular expression match it as a whole, as Python's `re` judges."""

import re

import pytest

from grammar.walks import Walker, allowed_ids
from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.matcher import DeadEndError, Matcher
from text_generation_server.grammar.vocabulary import Vocabulary
from text_generation_server.text.tokenizer import ModelTokenizer

EXPRESSIONS = [
    r"yes|no|maybe",
    r"[0-9]{3}-[0-9]{4}",
    r"\d{1,3}(\.\d{1,3}){3}",
    r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)",
    r"[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?",
    r"https?://[a-z]{1,8}\.(com|org)/[a-z/]{0,9}",
    r"^\w{2,5}$",
    r"(?:a|b)*c",
    r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])",
    r"(?i)hello",
    r"a.c",
    r"(?s)a.c",
    r"[^\"\\\x00-\x1f]{3}",
    r"[\d.]{3}[^\d\s]\W\D\S",
    r"\u00e9\x41",
    "日本(語|人)?",
    r"😀{2}",
    r"\/\-\.\*\"'",
    r"a/b // c",
    "a\nb\tc",
    r"\{\"a\":[ ]?(true|false)\}",
    r"(a*)*b",
    r"(x+x+)+y",
    r"(a?){12}a{12}",
    r"",
    r"a?",
]


def regex(text: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, text)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_output_matches_as_a_whole(any_walker: Walker, text: str) -> None:
    for seed in range(4):
        output = any_walker.walk(regex(text), seed)
        assert re.fullmatch(text, output, re.ASCII), output


def test_whatever_matches_can_be_given_and_nothing_else(walker: Walker) -> None:
    grammar = regex(r'(The|the) quick "fox"( jumps){0,2}')
    for text in ('The quick "fox"', 'the quick "fox" jumps jumps'):
        assert walker.accepts(grammar, text)
    for text in (
        "",
        "The quick",
        'The quick "fox" jumps jumps jumps',
        'the  quick "fox"',
        'a the quick "fox"',
    ):
        assert not walker.accepts(grammar, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(", "unclosed group"),
        ("[a", "unclosed character class"),
        (r"a\1", "backreferences are not supported"),
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"\bword", "lookarounds not supported"),
        ("a{5,2}", "repetition"),
        (r"[^\s\S]", "no text matches it"),
        ("a" * (2**20 + 1), "it has 1048577 characters, and at most 1048576 are allowed"),
        ("((((((((((" * 100 + "a" + "))))))))))" * 100, "nested parentheses"),
    ],
)
def test_an_expression_that_cannot_be_kept_to_is_refused_with_its_reason(
    walker: Walker, text: str, why: str
) -> None:
    with pytest.raises(InvalidRequestError, match="`grammar` cannot be compiled") as refusal:
        walker.matcher(regex(text))
    assert why in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_an_expression_cannot_break_out_of_its_quotes(walker: Walker) -> None:
    for text in ('a/ | "b', "a/\nother: /b", r"a\/i"):
        assert walker.accepts(regex(text), walker.walk(regex(text), 0))
        assert not walker.accepts(regex(text), "b")


def test_only_an_end_of_sequence_token_may_follow_a_complete_output(walker: Walker) -> None:
    matcher = walker.matcher(regex("ab"))
    for letter in "ab":
        assert walker.eos_id not in allowed_ids(matcher.allowed())
        matcher.advance(walker.tokenizer.convert_tokens_to_ids(letter))
    assert allowed_ids(matcher.allowed()) == [walker.eos_id]


def test_every_end_of_sequence_token_may_end_an_output(walker: Walker) -> None:
    ends = [walker.eos_id, walker.tokenizer.convert_tokens_to_ids("z")]
    vocabulary = Vocabulary(ModelTokenizer.from_transformers(walker.tokenizer), len(walker.tokenizer), ends)
    matcher = Matcher(walker.compiled(regex("[a-z]{2}"), vocabulary), vocabulary)
    assert not {*ends} & {*allowed_ids(matcher.allowed())}
    for letter in "ab":
        matcher.advance(walker.tokenizer.convert_tokens_to_ids(letter))
    assert allowed_ids(matcher.allowed()) == sorted(ends)


@pytest.mark.parametrize("padding", [0, 1, 31, 32, 100])
def test_tokens_that_only_the_model_has_are_never_allowed(walker: Walker, padding: int) -> None:
    size = len(walker.tokenizer)
    vocabulary = Vocabulary(
        ModelTokenizer.from_transformers(walker.tokenizer), size + padding, [walker.eos_id]
    )
    mask = Matcher(walker.compiled(regex(r"(?s).*"), vocabulary), vocabulary).allowed()
    assert mask.shape == (-(-(size + padding) // 32),)
    assert max(allowed_ids(mask)) < size


def test_tokens_that_only_the_tokenizer_has_are_never_allowed(walker: Walker) -> None:
    model_size = walker.tokenizer.convert_tokens_to_ids("b") + 1
    vocabulary = Vocabulary(ModelTokenizer.from_transformers(walker.tokenizer), model_size, [walker.eos_id])
    matcher = Matcher(walker.compiled(regex("[a-z]"), vocabulary), vocabulary)
    assert max(allowed_ids(matcher.allowed())) < model_size
    with pytest.raises(DeadEndError, match="no token of the model"):
        Matcher(walker.compiled(regex("z"), vocabulary), vocabulary).allowed()


def test_special_tokens_are_never_text(walker: Walker) -> None:
    special = set(walker.tokenizer.all_special_ids) - {walker.eos_id}
    assert not special & {*allowed_ids(walker.matcher(regex(r"(?s).*")).allowed())}
    with pytest.raises(DeadEndError):
        Matcher.advance(walker.matcher(regex("<s>")), walker.tokenizer.bos_token_id)
