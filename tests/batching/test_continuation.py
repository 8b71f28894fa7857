"""Long answers have no seam where routers cut them.

Since 3.1.1 a router asks for 1024 tokens at most, and then again, with the text so far behind the prompt (protocol
section 4.6). That text is tokenised anew, often into other tokens than were generated.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import small_tokenizers
from support.reciter import known_characters, reciting_generator
from support.rooms import request
from support.small_tokenizers import SENTENCES
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import FinishReason

TOKENIZERS = [small_tokenizers.byte_level, small_tokenizers.byte_fallback, small_tokenizers.metaspace]
LONGEST_CHARACTER = 4
"""Tokens. With fewer than one more, a segment might not complete a character, and the router never get on."""


def joined_answer(generator: Generator, prompt: str, most_at_once: int) -> str:
    """What the client of such a router gets."""
    text = ""
    for batch_id in range(1000):
        outcome = generator.prefill(batch_id, [request(batch_id, prompt + text, max_new_tokens=most_at_once)])
        assert not outcome.failures
        generations = list(outcome.generations)
        while outcome.batch is not None:
            outcome = generator.decode([batch_id])
            generations += outcome.generations
        end = generations[-1].finished
        assert end is not None
        streamed = "".join(each.tokens[0].text for each in generations if not each.tokens[0].is_special)
        assert streamed == end.text
        text += end.text
        if end.finish_reason is not FinishReason.LENGTH:
            return text
    raise AssertionError("1000 segments did not end the answer")


@pytest.mark.parametrize("make", TOKENIZERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    document=st.lists(st.sampled_from([*SENTENCES, "\n\n", "  ", "Hello  world"]), min_size=1, max_size=3),
    start=st.integers(1, 20),
    most_at_once=st.integers(LONGEST_CHARACTER + 1, 30),
    seed=st.integers(0, 1000),
)
def test_the_joined_text_is_the_document_wherever_it_is_cut_and_however_it_is_tokenised(
    make: Any, document: list[str], start: int, most_at_once: int, seed: int
) -> None:
    tokenizer = make()
    whole = known_characters(tokenizer, "".join(document))
    prompt = whole[:start]
    answer = joined_answer(reciting_generator(tokenizer, whole, seed), prompt, most_at_once)
    assert prompt + answer == whole
