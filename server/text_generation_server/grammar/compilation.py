"""From the text of a grammar to an automaton, within limits."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import llguidance

from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar import trial
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.vocabulary import Vocabulary

LONGEST_GRAMMAR = 2**20
"""Characters. A literal of that length compiles in 0.15 s; a router's regex for one tool has some thousands."""

LONGEST_MESSAGE = 300

BYTES_OF_ANY, BYTES_PER_CHARACTER, BYTES_PER_MASK = 2**18, 64, 2**11
"""Measured as growth of the process: 0.2 MB for a word, 52 bytes for each character of a long literal, 0.3 to 1.6 KB
for each mask of random walks."""

LARGEST_STATES = 100 * 2**20
"""What `max_lexer_states` of the library take."""

LIMITS = llguidance.LLParserLimits(
    # Of the regular expression as written; without it 200,000 alternatives take a second to compile.
    initial_lexer_fuel=1_000_000,
    # Of one token: 10 ms.
    step_lexer_fuel=200_000,
    # Of the whole output, states are made as they are reached: about 100 MB.
    max_lexer_states=50_000,
    verbose_errors=False,
)


@dataclass
class CompiledGrammar:
    """An automaton that is ready to follow outputs.

    Copies of `start` share the states that they have reached, which is fast; but they also share the limit of states.

    Attributes:
        masks: how many were made with it. Each may have made states.
    """

    source: str
    start: llguidance.LLMatcher
    masks: int = 0

    @property
    def estimated_bytes(self) -> int:
        """About what it takes of the host's memory: the library does not tell."""
        return bytes_of_source(self.source) + min(LARGEST_STATES, BYTES_PER_MASK * self.masks)


def bytes_of_source(source: str) -> int:
    """About what a grammar takes before an output follows it."""
    return BYTES_OF_ANY + BYTES_PER_CHARACTER * len(source)


def compile_grammar(grammar: Grammar, vocabulary: Vocabulary) -> CompiledGrammar:
    """Compiles for some milliseconds. States are made while outputs are followed, so that no expression is too large.

    Raises InvalidRequestError if the grammar is not valid, cannot be enforced whole, is too large, or matches no text.
    """
    source = lark(grammar)
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        try_in_a_process(source)
    start = new_matcher(source, vocabulary)
    if not start.is_error():
        # The first mask builds the first states, and finds out whether there is any text at all.
        start.compute_bitmask()
    if start.is_error():
        raise invalid(reason(start.get_error()))
    return CompiledGrammar(source, start)


def new_matcher(source: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    """An automaton that shares nothing with others. Whether it is one says `is_error`."""
    return llguidance.LLMatcher(vocabulary.table, source, log_level=0, limits=LIMITS)


def lark(grammar: Grammar) -> str:
    """The grammar in the language of the library.

    no_forcing: any token that keeps to the grammar is allowed. Otherwise text that must follow could only come in the
    one way that the tokenizer would cut it, and would be searched for at each step, however long it is.
    """
    if len(grammar.text) > LONGEST_GRAMMAR:
        raise invalid(f"it has {len(grammar.text)} characters, and at most {LONGEST_GRAMMAR} are allowed")
    if grammar.kind is GrammarKind.REGEX:
        # \d, \w and \s are of ASCII, as in TGI (outlines): routers write dates and numbers with them.
        rule = f"/{llguidance.regex_to_lark(grammar.text, 'dws')}/"
    else:
        rule = f"%json {json.dumps(schema_with_options(grammar.text))}"
    return f'%llguidance {{"no_forcing": true}}\nstart: {rule}'


def schema_with_options(text: str) -> dict[str, object]:
    """The schema, with at most one space where JSON allows any whitespace: as routers from 3.0 make it in a regex."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise invalid("the schema must be a JSON object")
    # The last word on this key: a schema could ask for keywords to be ignored with it.
    return schema | {"x-guidance": {"whitespace_pattern": "[ ]?"}}


def try_in_a_process(source: str) -> None:
    """Compiles in a process that can be stopped: intersections and divisors are beyond the library's own limits.

    Regular expressions cannot have these, and keep to the limits.
    """
    try:
        done = subprocess.run([sys.executable, trial.__file__], input=source.encode(), timeout=trial.SECONDS)
    except subprocess.TimeoutExpired as error:
        raise invalid(f"it takes more than {trial.SECONDS} s to compile; simplify it") from error
    if done.returncode != 0:
        raise invalid(f"it takes more than {trial.MEGABYTES} MB or {trial.SECONDS} s to compile; simplify it")


def invalid(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"`grammar` cannot be compiled: {why}")


def reason(message: str) -> str:
    """What the library says of a grammar, without the listing of the grammar around it."""
    if "NoExtension" in message:
        return "no text matches it"
    listing = re.split(r"\n\s+1 \| |\n<", message)[0]
    said = listing
    for heading in ("(in regex): ", "failed to compile JSON schema: ", "error: "):
        said = said.rpartition(heading)[2]
    return " ".join(said.split())[:LONGEST_MESSAGE]
