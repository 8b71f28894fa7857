"""Prompts: special tokens, truncation, limits."""

from typing import Any

import pytest

from support import small_tokenizers
from support.rooms import request
from support.small_tokenizers import BOS
from text_generation_server.errors import InvalidRequestError
from text_generation_server.text.prompt import PromptEncoder
from text_generation_server.text.tokenizer import ModelTokenizer

TOKENIZERS = [small_tokenizers.byte_level, small_tokenizers.byte_fallback, small_tokenizers.metaspace]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


def encode(tokenizer: Any, prompt: str, max_length: int = 100, **fields: Any) -> list[int]:
    return PromptEncoder(ModelTokenizer.from_transformers(tokenizer), max_length, len(tokenizer)).encode(
        request(0, prompt, **fields)
    )


def test_special_tokens_are_added_only_on_request(tokenizer: Any) -> None:
    plain = encode(tokenizer, "the fox", add_special_tokens=False)
    assert encode(tokenizer, "the fox") == [tokenizer.bos_token_id, *plain]
    assert tokenizer.bos_token_id not in plain


def test_a_prompt_that_starts_with_the_bos_does_not_get_a_second_one(tokenizer: Any) -> None:
    chat = f"{BOS}the fox"
    as_written = encode(tokenizer, chat, add_special_tokens=False)
    assert as_written.count(tokenizer.bos_token_id) == 1
    assert encode(tokenizer, chat) == as_written


def test_a_bos_that_the_prompt_has_twice_stays_if_the_tokenizer_adds_none() -> None:
    tokenizer = small_tokenizers.byte_level()
    ids = encode(tokenizer, f"{BOS}{BOS}hi", add_special_tokens=False)
    assert ids[:2] == [tokenizer.bos_token_id] * 2


@pytest.mark.parametrize("truncate", [1, 2, 3, 5])
def test_truncation_keeps_what_the_tokenizer_keeps_with_truncation_side_left(truncate: int) -> None:
    tokenizer = small_tokenizers.byte_level()
    prompt = "The quick brown fox jumps over the lazy dog"
    reference = small_tokenizers.byte_level.__wrapped__()
    reference.truncation_side = "left"
    expected = reference(prompt, truncation=True, max_length=truncate)["input_ids"]
    assert encode(tokenizer, prompt, truncate=truncate) == expected
    assert len(expected) == truncate


def test_truncation_without_special_tokens_keeps_the_last_tokens(tokenizer: Any) -> None:
    whole = encode(tokenizer, "the fox jumps over", add_special_tokens=False)
    assert encode(tokenizer, "the fox jumps over", add_special_tokens=False, truncate=3) == whole[-3:]


def test_truncation_keeps_a_bos_that_stands_in_the_text(tokenizer: Any) -> None:
    whole = encode(tokenizer, f"{BOS}the fox jumps over", add_special_tokens=False)
    cut = encode(tokenizer, f"{BOS}the fox jumps over", add_special_tokens=False, truncate=4)
    assert cut == [tokenizer.bos_token_id, *whole[-3:]]


def test_a_truncation_above_the_prompt_changes_nothing(tokenizer: Any) -> None:
    assert encode(tokenizer, "the fox", truncate=99) == encode(tokenizer, "the fox")


def test_truncation_makes_a_prompt_fit_that_is_too_long() -> None:
    assert len(encode(small_tokenizers.byte_level(), "fox " * 500, max_length=20, truncate=15)) == 15


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"`inputs` must have at least 1 token\. Given: ''"):
        encode(small_tokenizers.byte_level(), "", add_special_tokens=False)


def test_a_prompt_of_the_whole_length_is_refused_with_a_truncation_that_works() -> None:
    tokenizer = small_tokenizers.byte_level()
    with pytest.raises(
        InvalidRequestError, match=r"`inputs` must have fewer than 10 tokens.*`truncate` to at most 9"
    ):
        encode(tokenizer, "x" * 9, max_length=10, max_new_tokens=1)
    assert len(encode(tokenizer, "x" * 9, max_length=10, max_new_tokens=1, truncate=9)) == 9


def test_an_output_that_does_not_fit_is_refused_with_the_length_that_works() -> None:
    tokenizer = small_tokenizers.byte_level()
    with pytest.raises(InvalidRequestError, match=r"Given: 6 \+ 5\. Set `max_new_tokens` to at most 4"):
        encode(tokenizer, "x" * 5, max_length=10, max_new_tokens=5)
    assert len(encode(tokenizer, "x" * 5, max_length=10, max_new_tokens=4)) == 6


@pytest.mark.parametrize("value", [0, -1])
def test_fewer_than_one_new_token_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequestError, match=rf"`max_new_tokens` must be >= 1\. Given: {value}"):
        encode(small_tokenizers.byte_level(), "the fox", max_new_tokens=value)


def test_a_negative_truncation_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"`truncate` must be 0 .* Given: -1"):
        encode(small_tokenizers.byte_level(), "the fox", truncate=-1)


def test_a_token_that_only_the_tokenizer_has_is_refused_and_named(tokenizer: Any) -> None:
    encoder = PromptEncoder(ModelTokenizer.from_transformers(tokenizer), 100, len(tokenizer) - 1)
    last = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    with pytest.raises(InvalidRequestError, match=f"the model has only {len(tokenizer) - 1} tokens"):
        encoder.encode(request(0, f"the {last}"))
    assert encoder.encode(request(0, "a"))
