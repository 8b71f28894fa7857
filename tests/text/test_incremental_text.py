"""Pieces of text: they concatenate to the whole, and none is half a character."""

import codecs
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import small_tokenizers
from support.small_tokenizers import MARKED, SENTENCES, THINK, TOOL
from text_generation_server.text.incremental import IncrementalText
from text_generation_server.text.tokenizer import ModelTokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
WHOLE_TEXTS = [
    *SENTENCES,
    "Hello  world,   the learning !",
    "学习 😀学😀🎉",
    "👨‍👩‍👧‍👦e\u0301e\u0301नमस्ते",
    "line\n\n  indented ?  ",
]
TEXT_TOKENIZERS = [small_tokenizers.byte_level, small_tokenizers.byte_fallback, small_tokenizers.metaspace]


without_transformers = cache(ModelTokenizer.from_transformers)
"""That of 65,000 byte pairs takes a moment, and there are hundreds of examples."""


def pieces_of(tokenizer: Any, token_ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> list[str]:
    text = IncrementalText(without_transformers(tokenizer), prompt_ids)
    return [text.add(token_id) for token_id in token_ids]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decoded(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("make", TEXT_TOKENIZERS)
@pytest.mark.parametrize("whole", WHOLE_TEXTS)
def test_pieces_concatenate_to_what_the_tokenizer_decodes_at_once(make: Any, whole: str) -> None:
    tokenizer = make()
    token_ids = ids_of(tokenizer, whole)
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == decoded(tokenizer, token_ids)
    assert not any(REPLACEMENT in piece for piece in pieces)


@pytest.mark.parametrize("make", TEXT_TOKENIZERS)
@pytest.mark.parametrize("whole", WHOLE_TEXTS)
def test_pieces_after_a_prompt_are_the_rest_of_the_common_text_wherever_it_is_cut(
    make: Any, whole: str
) -> None:
    tokenizer = make()
    bos = tokenizer.bos_token_id
    token_ids = ids_of(tokenizer, whole)
    cuts = [cut for cut in range(1, len(token_ids)) if REPLACEMENT not in decoded(tokenizer, token_ids[:cut])]
    for cut in cuts:
        prompt_ids, rest = token_ids[:cut], token_ids[cut:]
        if not decoded(tokenizer, prompt_ids):
            continue  # A lone sentencepiece space: the tokenizer itself does not show it.
        joined = decoded(tokenizer, prompt_ids) + "".join(pieces_of(tokenizer, rest, [bos, *prompt_ids]))
        assert joined == decoded(tokenizer, token_ids), f"cut at {cut}"


@settings(deadline=None)
@given(
    data=st.data(),
    text=st.text(st.characters(codec="utf-8", exclude_characters=REPLACEMENT)),
)
def test_every_character_is_given_out_with_the_token_that_completes_it(
    data: st.DataObject, text: str
) -> None:
    """The oracle is Python's own incremental UTF-8 decoder; tokens are one or two bytes, cut at random."""
    left = text.encode()
    chunks: list[bytes] = []
    while left:
        size = data.draw(st.integers(1, 2))
        chunks.append(left[:size])
        left = left[size:]
    token_ids = [c[0] if len(c) == 1 else 256 + 256 * c[0] + c[1] for c in chunks]
    python = codecs.getincrementaldecoder("utf-8")()
    assert pieces_of(small_tokenizers.byte_pairs(), token_ids) == [python.decode(chunk) for chunk in chunks]


def test_characters_that_always_straddle_two_tokens_come_out_one_by_one() -> None:
    """Chinese text shifted by one byte: the output never comes to rest between two characters."""
    text = "深度学习是机器学习的一个分支" * 3
    raw = b"a" + text.encode() + b"b"
    tokens = [256 + 256 * raw[at] + raw[at + 1] for at in range(0, len(raw), 2)]
    pieces = pieces_of(small_tokenizers.byte_pairs(), tokens)
    assert "".join(pieces) == f"a{text}b"
    assert max(map(len, pieces)) <= 2


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
@example([0xFF] * 50)
@example([0xF0] * 18 + list("😀".encode()))
def test_bytes_that_are_no_utf8_come_out_as_the_tokenizer_shows_them(raw: list[int]) -> None:
    tokenizer = small_tokenizers.byte_pairs()
    joined = "".join(pieces_of(tokenizer, [*raw, ord("."), ord("!")]))
    assert joined == decoded(tokenizer, [*raw, ord("."), ord("!")])


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_broken_bytes_of_a_byte_fallback_tokenizer_never_hide_the_text_after_them(raw: list[int]) -> None:
    tokenizer = small_tokenizers.byte_fallback()
    byte_ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in raw]
    joined = "".join(pieces_of(tokenizer, [*byte_ids, *ids_of(tokenizer, "the learning")]))
    assert joined.endswith("the learning")


def test_a_broken_byte_after_a_character_of_bytes_does_not_break_that_character_too() -> None:
    tokenizer = small_tokenizers.byte_fallback()
    byte_ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "学".encode() + b"\xff"]
    token_ids = [*byte_ids, *tokenizer.convert_tokens_to_ids(["o", "n"])]
    assert "".join(pieces_of(tokenizer, token_ids)) == f"学{REPLACEMENT}on"


def test_an_incomplete_character_at_the_end_is_left_out() -> None:
    tokens = list("Hi 😀".encode())[:-1]
    assert "".join(pieces_of(small_tokenizers.byte_pairs(), tokens)) == "Hi "


def test_a_prompt_that_ends_in_byte_tokens_does_not_spoil_the_first_character() -> None:
    tokenizer = small_tokenizers.byte_fallback()
    emoji = ids_of(tokenizer, "😀😀😀")
    assert "".join(pieces_of(tokenizer, emoji[-4:], prompt_ids=emoji)) == "😀"


@pytest.mark.parametrize("make", [small_tokenizers.byte_fallback, small_tokenizers.metaspace])
def test_a_word_after_a_prompt_keeps_its_leading_space(make: Any) -> None:
    tokenizer = make()
    prompt_ids = tokenizer("the")["input_ids"]
    assert "".join(pieces_of(tokenizer, ids_of(tokenizer, "the"), prompt_ids)) == " the"


@pytest.mark.parametrize("make", TEXT_TOKENIZERS)
@pytest.mark.parametrize("special", [TOOL, MARKED])
def test_a_special_token_is_a_piece_of_its_own_and_leaves_the_text_around_it_alone(
    make: Any, special: str
) -> None:
    tokenizer = make()
    special_id = tokenizer.convert_tokens_to_ids(special)
    prompt_ids = tokenizer("the")["input_ids"]
    token_ids = ids_of(tokenizer, "learning 😀 the")
    plain = pieces_of(tokenizer, token_ids, prompt_ids)
    for at in range(len(token_ids) + 1):
        mixed = pieces_of(tokenizer, [*token_ids[:at], special_id, *token_ids[at:]], prompt_ids)
        assert mixed == [*plain[:at], special, *plain[at:]]


def test_special_tokens_are_those_of_the_tokenizer_and_those_that_are_marked() -> None:
    tokenizer = small_tokenizers.byte_level()
    special_ids = ModelTokenizer.from_transformers(tokenizer).special_ids
    named = {tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", TOOL, MARKED)}
    assert special_ids == named
    assert tokenizer.convert_tokens_to_ids(THINK) not in special_ids


def test_an_id_past_the_end_of_the_tokenizer_has_no_text_and_does_not_cost_the_next_word_its_space() -> None:
    tokenizer = small_tokenizers.byte_fallback()
    prompt_ids = tokenizer("the")["input_ids"]
    token_ids = [len(tokenizer) + 7] * 40 + ids_of(tokenizer, "the")
    assert pieces_of(tokenizer, token_ids, prompt_ids) == [
        *[""] * 40,
        *pieces_of(tokenizer, token_ids[40:], prompt_ids),
    ]
    assert "".join(pieces_of(tokenizer, token_ids, prompt_ids)) == " the"


def test_spaces_before_punctuation_stay_although_the_tokenizer_would_clean_them_up() -> None:
    tokenizer = small_tokenizers.metaspace()
    text = "the fox , the dog . n't"
    assert "".join(pieces_of(tokenizer, ids_of(tokenizer, text))) == text
    assert tokenizer.decode(ids_of(tokenizer, text)) != text


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    lengths: list[int] = []
    tokenizer = small_tokenizers.byte_level()

    class Watched(ModelTokenizer):
        def decode(self, token_ids: Sequence[int]) -> str:
            lengths.append(len(token_ids))
            return super().decode(token_ids)

    broken = ids_of(tokenizer, "😀")[0]
    text = IncrementalText(Watched.from_transformers(tokenizer), [])
    for token_id in [*ids_of(tokenizer, " ".join(SENTENCES)) * 3, *[broken] * 200]:
        text.add(token_id)
    assert max(lengths) <= 32
