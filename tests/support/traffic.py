"""Random requests with shared beginnings on a real engine: they join, leave, and are answered alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from support import small_tokenizers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome, GeneratedToken, GenerationRequest
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

MAX_LENGTH = 160
"""Of the engines: prompts take up to 140 tokens of it."""

TOKENIZER = small_tokenizers.byte_level()
PLAIN = SamplingParameters()
STARTS = [
    "You are a friendly assistant who answers in one sentence, without lists, politely and in English. ",
    "You are a friendly assistant who answers in one sentence. ",
    "Translate into German: ",
    "",
]
WORDS = ["water", "Zürich", "🙂", "def", "42", "東京", "\n", "the quick brown fox"]


@dataclass
class Client:
    """One request and its answer."""

    request: GenerationRequest
    cancelled: bool = False
    tokens: list[GeneratedToken] = field(default_factory=list)


def random_request(chance: random.Random, request_id: int) -> GenerationRequest:
    sampling = PLAIN
    if chance.random() < 0.4:
        sampling = SamplingParameters(
            do_sample=True,
            seed=chance.getrandbits(64),
            repetition_penalty=chance.choice([1.0, 1.3]),
            top_k=chance.choice([0, 20]),
        )
    return GenerationRequest(
        id=request_id,
        prompt=chance.choice(STARTS) + " ".join(chance.choices(WORDS, k=chance.randint(1, 9))),
        max_new_tokens=chance.randint(1, 20),
        truncate=MAX_LENGTH - 20,
        sampling=sampling,
        ignore_eos_token=True,
        prompt_logprobs=chance.random() < 0.1,
    )


MakeRequest = Callable[[random.Random, int], GenerationRequest]


def serve(
    engine: StaticBatchEngine, chance: random.Random, requests: int, make: MakeRequest = random_request
) -> tuple[list[Client], Generator]:
    """Requests join in small batches, and some leave, also in the middle of their prompt."""
    generator = Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), frozenset())
    clients: dict[int, Client] = {}
    alive: set[int] = set()

    def deliver(outcome: BatchOutcome) -> int | None:
        assert not outcome.failures
        for generation in outcome.generations:
            assert generation.request_id in alive, "an answer for a request that ended or left"
            clients[generation.request_id].tokens += generation.tokens
            if generation.finished:
                alive.remove(generation.request_id)
        return outcome.batch.id if outcome.batch else None

    running: int | None = None
    batch_id = 0
    while len(clients) < requests or running is not None:
        batches = [] if running is None else [running]
        if len(clients) < requests and (running is None or chance.random() < 0.3):
            joining = [make(chance, len(clients) + i) for i in range(chance.randint(1, 5))]
            clients |= {request.id: Client(request) for request in joining}
            alive |= {request.id for request in joining}
            joined = deliver(generator.prefill(batch_id, joining))
            batches += [] if joined is None else [joined]
            batch_id += 1
        running = deliver(generator.decode(batches)) if batches else None
        if running is not None and chance.random() < 0.15:
            leaving = chance.choice(sorted(alive))
            clients[leaving].cancelled = True
            alive.remove(leaving)
            kept = generator.filter(running, sorted(alive))
            running = kept.id if kept else None
    assert not alive, "an answer was lost"
    return list(clients.values()), generator


def alone(engine: StaticBatchEngine, request: GenerationRequest) -> list[GeneratedToken]:
    """The answer of a generator that has seen no other request, and so finds nothing in the slots."""
    generator = Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), frozenset())
    outcome = generator.prefill(0, [request])
    tokens = [token for generation in outcome.generations for token in generation.tokens]
    while outcome.batch is not None:
        outcome = generator.decode([0])
        tokens += [token for generation in outcome.generations for token in generation.tokens]
    return tokens


def poison(engine: StaticBatchEngine) -> None:
    """As if former requests had left numbers that are none in every slot."""
    for name, held in engine._state.items():
        if name.startswith(("keys.", "values.")):
            engine._state[name] = jax.device_put(jnp.full_like(held, jnp.nan), held.sharding)


def prompt_of(request: GenerationRequest) -> list[int]:
    """The last tokens, and the BOS before them."""
    bos, *ids = TOKENIZER(request.prompt)["input_ids"]
    return [bos, *ids[-request.truncate + 1 :]]
