"""The tokenizer without transformers says what transformers' own says, also after it was stored."""

from pathlib import Path
from typing import Any

import llguidance.hf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from support import small_tokenizers
from support.small_tokenizers import BOS, EOS, MARKED, SENTENCES, THINK, TOOL
from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.vocabulary import Vocabulary
from text_generation_server.text.tokenizer import ModelTokenizer
from tpu_tgi.demo_model import prepare

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
MAKERS = ["byte_level", "byte_fallback", "metaspace", "demo"]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*SENTENCES, BOS, EOS, MARKED, THINK, TOOL, "  ", " ,", " n't"]), st.text()),
    max_size=4,
).map("".join)


@pytest.fixture(scope="module")
def demo_model() -> Path:
    prepare(MODEL)
    return MODEL


@pytest.fixture(params=MAKERS, scope="module")
def original(request: pytest.FixtureRequest) -> Any:
    if request.param == "demo":
        return AutoTokenizer.from_pretrained(request.getfixturevalue("demo_model"))
    return getattr(small_tokenizers, request.param)()


@pytest.fixture(scope="module")
def stored(original: Any) -> ModelTokenizer:
    return ModelTokenizer.from_json(ModelTokenizer.from_transformers(original).to_json())


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, special=st.booleans())
def test_texts_are_encoded_as_transformers_does(
    original: Any, stored: ModelTokenizer, text: str, special: bool
) -> None:
    expected = original(text, add_special_tokens=special, truncation=False, padding=False)["input_ids"]
    assert stored.encode(text, add_special_tokens=special) == list(expected)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_tokens_are_decoded_as_transformers_does(
    original: Any, stored: ModelTokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(original) - 1), max_size=12))
    expected = original.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert stored.decode(ids) == expected
    assert [stored.token(token_id) for token_id in ids] == original.convert_ids_to_tokens(ids)


def test_the_facts_beside_it_are_those_of_transformers(original: Any, stored: ModelTokenizer) -> None:
    assert len(stored) == len(original)
    assert (stored.bos_token, stored.bos_token_id) == (original.bos_token, original.bos_token_id)
    assert (stored.eos_token, stored.eos_token_id) == (original.eos_token, original.eos_token_id)
    marked = {index for index, token in original.added_tokens_decoder.items() if token.special}
    assert stored.special_ids == marked | set(original.all_special_ids)


def test_the_table_for_grammars_is_the_one_that_is_made_of_transformers_own(
    original: Any, stored: ModelTokenizer
) -> None:
    eos, padded = [original.eos_token_id], len(original) + 37
    try:
        expected = llguidance.hf.from_tokenizer(original, n_vocab=padded, eos_token=eos)
    except ValueError:  # It knows no vocabularies like metaspace().
        with pytest.raises(InvalidRequestError, match="cannot be used"):
            Vocabulary(stored, padded, eos).check()
        return
    table = Vocabulary(stored, padded, eos).table
    assert (table.vocab_size, table.eos_tokens) == (expected.vocab_size, expected.eos_tokens)
    for token_id in range(padded):
        assert table.decode_bytes([token_id]) == expected.decode_bytes([token_id])
        assert table.is_special_token(token_id) == expected.is_special_token(token_id)


def test_what_is_no_stored_tokenizer_is_refused() -> None:
    for text in ("", "{}", "[]", '{"tokenizer": "{}"}'):
        with pytest.raises(ValueError, match="no stored tokenizer"):
            ModelTokenizer.from_json(text)
