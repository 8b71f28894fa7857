"""Generators over the fake engine, requests for them, and the answers of any generator."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome, Generation, GenerationRequest
from text_generation_server.engine.fake import FakeEngine


@dataclass
class Room:
    """A generator, the engine below it and the tokenizer beside it."""

    engine: FakeEngine
    generator: Generator
    tokenizer: Any

    def run(self, outcome: BatchOutcome) -> list[Generation]:
        """Decodes until no batch is left; all tokens one by one, those of `outcome` first."""
        generations = token_by_token(outcome.generations)
        for _ in range(1000):
            if outcome.batch is None:
                return generations
            outcome = self.generator.decode([outcome.batch.id])
            generations += token_by_token(outcome.generations)
        raise AssertionError("1000 decodes did not end the batch")

    def answer(self, **fields: Any) -> list[Generation]:
        """All generations of one request that is alone."""
        return self.run(self.generator.prefill(0, [request(0, **fields)]))


MakeRoom = Callable[..., Room]


def request(
    request_id: int, prompt: str = "The quick", max_new_tokens: int = 5, **fields: Any
) -> GenerationRequest:
    return GenerationRequest(id=request_id, prompt=prompt, max_new_tokens=max_new_tokens, **fields)


def answers(generator: Generator, requests: Sequence[GenerationRequest]) -> dict[int, list[Generation]]:
    """All generations by request, of requests that were sent together."""
    outcome = generator.prefill(0, requests)
    given: dict[int, list[Generation]] = {request.id: [] for request in requests}
    while True:
        assert not outcome.failures
        for generation in outcome.generations:
            given[generation.request_id].append(generation)
        if outcome.batch is None:
            return given
        outcome = generator.decode([0])


def scripted(tokens: Sequence[int], prompt_length: int) -> Callable[[Sequence[int]], int]:
    """A model that answers every prompt of this length with these tokens, and with the last one for ever."""
    return lambda history: tokens[min(len(history) - prompt_length, len(tokens) - 1)]


def token_by_token(generations: Iterable[Generation]) -> list[Generation]:
    """The same, each token in a generation of its own."""
    parts: list[Generation] = []
    for each in generations:
        last = len(each.tokens) - 1
        for index, token in enumerate(each.tokens):
            parts.append(
                Generation(
                    each.request_id,
                    (token,),
                    finished=each.finished if index == last else None,
                    top_tokens=each.top_tokens[index : index + 1],
                    prompt=each.prompt if index == 0 else None,
                )
            )
    return parts
