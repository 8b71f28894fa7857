"""Random requests with shared beginnings on a real engine: they join, leave, and are answered alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from support import small_tokenizers
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import (
    BatchOutcome,
    GeneratedToken,
    Generation,
    GenerationRequest,
)
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.grammar.definition import Grammar, GrammarKind
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
REGEX = Grammar(GrammarKind.REGEX, "[a-f]{2,5}(-[0-9]{1,9})*")
SCHEMA = Grammar(
    GrammarKind.JSON_SCHEMA,
    '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}',
)
EOS = frozenset({TOKENIZER.eos_token_id})
WORDS = ["water", "Zürich", "🙂", "def", "42", "東京", "\n", "the quick brown fox"]


@dataclass
class Client:
    """One request and its answer."""

    request: GenerationRequest
    cancelled: bool = False
    tokens: list[GeneratedToken] = field(default_factory=list)
    best: list[list[int]] = field(default_factory=list)
    """For each token, if the request asked for them, the ids of the best in its place."""

    def take(self, generation: Generation) -> None:
        self.tokens += generation.tokens
        self.best += [[token.id for token in tokens] for tokens in generation.top_tokens]


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
        top_n_tokens=chance.choice([0, 0, 0, 3]),
        grammar=chance.choice([None] * 8 + [REGEX, SCHEMA]),
    )


def is_plain(request: GenerationRequest) -> bool:
    """True if transformers' greedy search has the same tokens."""
    return request.sampling is PLAIN and request.grammar is None and request.adapter_id is None


MakeRequest = Callable[[random.Random, int], GenerationRequest]


def serve(
    engine: StaticBatchEngine, chance: random.Random, requests: int, make: MakeRequest = random_request
) -> tuple[list[Client], Generator]:
    """Requests join in small batches, and some leave, also in the middle of their prompt."""
    generator = Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), EOS)
    clients: dict[int, Client] = {}
    alive: set[int] = set()

    def deliver(outcome: BatchOutcome) -> int | None:
        assert not outcome.failures
        for generation in outcome.generations:
            assert generation.request_id in alive, "an answer for a request that ended or left"
            clients[generation.request_id].take(generation)
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


def alone(engine: StaticBatchEngine, request: GenerationRequest) -> Client:
    """Answered by a generator that has seen no other request, and so finds nothing in the slots."""
    generator = Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), EOS)
    client = Client(request)
    outcome = generator.prefill(0, [request])
    while True:
        for generation in outcome.generations:
            client.take(generation)
        if outcome.batch is None:
            return client
        outcome = generator.decode([0])


def poison(engine: StaticBatchEngine) -> None:
    """As if former requests had left numbers that are none in every slot."""
    for name, held in engine._state.items():
        if name.startswith(("keys.", "values.")):
            engine._state[name] = jax.device_put(jnp.full_like(held, jnp.nan), held.sharding)


def prompt_of(request: GenerationRequest) -> list[int]:
    """The last tokens, and the BOS before them."""
    bos, *ids = TOKENIZER(request.prompt)["input_ids"]
    return [bos, *ids[-request.truncate + 1 :]]
