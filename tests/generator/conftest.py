"""Generators over the fake engine, and requests for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from support import small_tokenizers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import Generation, GenerationRequest, StepOutcome
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.text.tokenizer import ModelTokenizer


@dataclass
class Room:
    """A generator, the engine below it and the tokenizer beside it."""

    engine: FakeEngine
    generator: Generator
    tokenizer: Any

    def run(self, outcome: StepOutcome) -> list[Generation]:
        """Decodes until no batch is left; all generations, those of `outcome` first."""
        generations = list(outcome.generations)
        for _ in range(1000):
            if outcome.batch is None:
                return generations
            outcome = self.generator.decode([outcome.batch.id])
            generations += outcome.generations
        raise AssertionError("1000 decodes did not end the batch")

    def answer(self, **fields: Any) -> list[Generation]:
        """All generations of one request that is alone."""
        return self.run(self.generator.prefill(0, [request(0, **fields)]))


MakeRoom = Callable[..., Room]


def request(
    request_id: int, prompt: str = "The quick", max_new_tokens: int = 5, **fields: Any
) -> GenerationRequest:
    return GenerationRequest(id=request_id, prompt=prompt, max_new_tokens=max_new_tokens, **fields)


def scripted(tokens: Sequence[int], prompt_length: int) -> Callable[[Sequence[int]], int]:
    """A model that answers every prompt of this length with these tokens, and repeats the last of them then."""
    return lambda history: tokens[min(len(history) - prompt_length, len(tokens) - 1)]


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
