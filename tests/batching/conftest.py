"""Generators over the fake engine."""

from collections.abc import Callable
from typing import Any

import pytest

from support import small_tokenizers
from support.rooms import MakeRoom, Room, scripted
from text_generation_server.batching.generator import Generator
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.text.tokenizer import ModelTokenizer


@pytest.fixture
def make_room() -> MakeRoom:
    """Builds a room; `batch_size`, `max_length` and `next_token` go to the engine. EOS is the tokenizer's."""

    def make(**engine_fields: Any) -> Room:
        tokenizer = small_tokenizers.byte_level()
        engine = FakeEngine(vocab_size=len(tokenizer), **engine_fields)
        return Room(
            engine,
            Generator(
                engine, ModelTokenizer.from_transformers(tokenizer), frozenset({tokenizer.eos_token_id})
            ),
            tokenizer,
        )

    return make


@pytest.fixture
def say(make_room: MakeRoom) -> Callable[..., Room]:
    """Builds a room whose model answers the prompt "The quick" with a text, special tokens parsed."""

    def make(text: str, **engine_fields: Any) -> Room:
        tokenizer = small_tokenizers.byte_level()
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt_length = len(tokenizer("The quick")["input_ids"])
        return make_room(next_token=scripted(tokens, prompt_length), **engine_fields)

    return make
