"""Stop sequences are found wherever they end, by the plain slow reference."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import small_tokenizers
from support.reciter import known_characters, reciting_generator
from support.reference import first_end
from support.rooms import request
from support.small_tokenizers import SENTENCES
from text_generation_server.batching.requests import FinishReason
from text_generation_server.errors import InvalidRequestError
from text_generation_server.text.stop_sequences import StopSequences

ROUTERS_LIMIT = 4
"""Stop sequences of one request, by default (--max-stop-sequences)."""

LETTERS = "abé😀\n"


def cut_text(pieces: list[str], stops: list[str]) -> tuple[str, int] | None:
    """The output up to the stop sequence and the number of pieces it took; None if there was none."""
    found = StopSequences(stops)
    for index, piece in enumerate(pieces):
        end = found.end_in(piece)
        if end is not None:
            return "".join(pieces[:index]) + piece[:end], index
    return None


@settings(deadline=None)
@given(
    pieces=st.lists(st.text(LETTERS, max_size=6), max_size=20),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=7), max_size=ROUTERS_LIMIT),
)
@example(pieces=["aab", "ab"], stops=["abab"])
@example(pieces=["abab"], stops=["bab", "aba", "ab"])
def test_output_ends_where_the_slow_reference_says(pieces: list[str], stops: list[str]) -> None:
    end = first_end("".join(pieces), stops)
    cut = cut_text(pieces, stops)
    if end is None:
        assert cut is None
    else:
        assert cut is not None
        text, index = cut
        assert text == "".join(pieces)[:end]
        assert len("".join(pieces[:index])) < end, "it was found later than it could be"


def test_a_long_stop_sequence_over_many_pieces_is_found() -> None:
    stop = "0123456789" * 100
    assert cut_text([*"xx" + stop, "rest"], [stop]) == ("xx" + stop, 1001)


def test_the_stop_sequence_that_ends_first_wins_over_the_one_that_starts_first() -> None:
    assert cut_text(["a long stop here"], ["long stop here", "stop"]) == ("a long stop", 0)


def test_without_stop_sequences_nothing_is_found() -> None:
    assert cut_text(["any", "thing", ""], []) is None


def test_an_empty_stop_sequence_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="`stop` must not contain an empty string"):
        StopSequences(["end", ""])


@pytest.mark.parametrize(
    "make", [small_tokenizers.byte_level, small_tokenizers.byte_fallback, small_tokenizers.metaspace]
)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), document=st.sampled_from(SENTENCES), seed=st.integers(0, 1000))
def test_an_answer_ends_with_the_first_of_its_stop_sequences_however_it_is_tokenised(
    make: Any, data: st.DataObject, document: str, seed: int
) -> None:
    """Anywhere in the text, across tokens and within them, also where a character is several tokens."""
    tokenizer = make()
    whole = known_characters(tokenizer, document)
    prompt, rest = whole[:3], whole[3:]
    starts = data.draw(st.lists(st.integers(0, len(rest) - 1), min_size=1, max_size=ROUTERS_LIMIT - 1))
    stops = [rest[start : start + data.draw(st.integers(1, 30))] for start in starts]
    stops.append("this never occurs")
    asked = request(0, prompt, max_new_tokens=1000, stop_sequences=tuple(data.draw(st.permutations(stops))))
    generator = reciting_generator(tokenizer, whole, seed)
    outcome = generator.prefill(0, [asked])
    generations = list(outcome.generations)
    while outcome.batch is not None:
        outcome = generator.decode([0])
        generations += outcome.generations
    end = generations[-1].finished
    assert end is not None
    assert end.text == rest[: first_end(rest, stops)]
    assert end.text == "".join(generation.tokens[0].text for generation in generations)
    assert end.finish_reason is FinishReason.STOP_SEQUENCE
