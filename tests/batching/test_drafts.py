"""Drafts: what occurred before is proposed, and what is expected of it follows from what came."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_generation_server.batching.drafts import CANDIDATES, LONGEST, Drafts


def drafts(prompt: list[int], output: list[int]) -> Drafts:
    made = Drafts(prompt)
    for token in output:
        made.add(token)
    return made


def test_what_followed_the_last_tokens_before_is_proposed() -> None:
    assert drafts([1, 2, 3, 4, 5, 6], [9, 2, 3]).propose(3) == [4, 5, 6]


def test_nothing_is_proposed_where_the_last_two_tokens_are_new() -> None:
    assert drafts([1, 2, 3, 4], [9, 3]).propose(4) == []
    assert drafts([1], []).propose(4) == []


def test_a_prompt_alone_may_have_a_draft() -> None:
    assert Drafts([1, 2, 3, 1, 2]).propose(1) == [3]


def test_the_longer_match_wins_and_among_equal_ones_the_later() -> None:
    assert drafts([7, 1, 2, 50, 8, 1, 2, 60], [7, 1, 2]).propose(1) == [50]
    assert drafts([8, 1, 2, 50, 9, 1, 2, 60], [3, 1, 2]).propose(1) == [60]


def test_what_is_said_again_and_again_is_continued_behind_the_end() -> None:
    assert drafts([4, 5, 6], [4, 5, 6, 4, 5]).propose(7) == [6, 4, 5, 6, 4, 5, 6]


def test_as_many_tokens_are_proposed_as_are_asked_for() -> None:
    made = drafts([1, 2, 3, 4, 5, 6], [1, 2])
    assert made.propose(0) == []
    assert made.propose(2) == [3, 4]


def test_more_is_expected_of_a_text_that_copies_and_less_of_one_that_does_not() -> None:
    text = list(range(100))
    copies = drafts(text, text[:40])
    assert copies.expected(4) > 3.5
    misleading = [token for place in range(40) for token in (1, 2, 1000 + place)]
    assert drafts(text, [*misleading, 1, 2]).expected(4) < 0.1
    assert drafts(text, [5, 500]).expected(4) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), max_size=60))
def test_a_draft_follows_an_earlier_occurrence_of_the_last_two_tokens(
    prompt: list[int], output: list[int]
) -> None:
    made, tokens = drafts(prompt, output), [*prompt, *output]
    proposed = made.propose(1)
    earlier = [
        place
        for place in range(2, len(tokens))
        if tokens[place - 2 : place] == tokens[-2:] and len(tokens) > 2
    ]
    assert bool(proposed) == bool(earlier)
    assert not proposed or proposed[0] in {tokens[place] for place in earlier}
    if proposed and not output and len(earlier) <= CANDIDATES:
        lengths = {place: common_end(tokens[:place], tokens) for place in earlier}
        best = max(earlier, key=lambda place: (min(LONGEST, lengths[place]), place))
        assert proposed == [tokens[best]]


def common_end(one: list[int], other: list[int]) -> int:
    length = 0
    while length < len(one) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def test_a_token_costs_microseconds_however_long_and_repetitive_the_text_is() -> None:
    chance = random.Random(3)
    made = Drafts(chance.choices(range(10), k=30_000))
    made.add(1)
    started = time.thread_time()
    for token in chance.choices(range(10), k=2000):
        made.add(token)
        made.propose(4)
    assert time.thread_time() - started < 2000 * 200e-6


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_is_expected_than_is_proposed(count: int) -> None:
    assert 0 < drafts(list(range(50)), list(range(20))).expected(count) <= count
