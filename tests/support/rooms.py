"""Generators over the fake engine, and requests for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import Generation, GenerationRequest, StepOutcome
from text_generation_server.engine.fake import FakeEngine


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
    """A model that answers every prompt of this length with these tokens."""
    return lambda history: tokens[len(history) - prompt_length]
