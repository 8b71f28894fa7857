"""Stop sequences are found wherever they end, by the plain slow reference."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from generator.reference import first_end
from text_generation_server.errors import InvalidRequestError
from text_generation_server.text import StopSequences

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
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=7), max_size=4),
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
