"""Prompts in pieces, together, and from what slots hold: each request gets what it gets alone, and of transformers."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines, small_tokenizers
from support.checkpoints import follow, save
from support.driver import Driver
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome, GeneratedToken, GenerationRequest
from text_generation_server.engine.contract import Prefix
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

MAX_LENGTH = 160
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


@dataclass(frozen=True)
class Kind:
    """A kind of attention and of cache, and how many requests it is tried with."""

    model_type: str
    layout: CacheLayout
    requests: int


KINDS = [
    Kind("llama", CacheLayout.HEADS, 200),
    Kind("llama", CacheLayout.LANES, 60),
    Kind("mistral", CacheLayout.HEADS, 60),
    Kind("gemma2", CacheLayout.LANES, 60),
]


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


def serve(engine: StaticBatchEngine, chance: random.Random, requests: int) -> tuple[list[Client], Generator]:
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
            joining = [random_request(chance, len(clients) + i) for i in range(chance.randint(1, 5))]
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.model_type}-{kind.layout.value}")
def test_answers_do_not_depend_on_pieces_company_and_reuse(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(f"{kind}")
    directory = save(kind.model_type, tmp_path, vocab_size=len(TOKENIZER), max_position_embeddings=MAX_LENGTH)
    options: dict[str, Any] = {"max_length": MAX_LENGTH, "layout": kind.layout, "scores_prompts": True}
    small = engines.engine(directory, batch_size=3, prefill_chunk=32, **options)
    large = engines.engine(directory, batch_size=1, prefill_chunk=128, **options)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    compiled = compilations()
    poison(small)
    compiled_by_poison = compilations() - compiled
    clients, generator = serve(small, chance, kind.requests)
    assert generator.prefixes.hits > kind.requests / 4
    assert generator.prefixes.hit_tokens > 10 * generator.prefixes.hits
    assert sum(client.cancelled for client in clients) > 5
    for client in clients:
        if client.cancelled:
            continue
        expected = alone(large, client.request)
        assert [token.id for token in client.tokens] == [token.id for token in expected], client.request
        assert [token.logprob for token in client.tokens] == pytest.approx(
            [token.logprob for token in expected], abs=2e-4
        )
        if client.request.sampling is PLAIN:
            prompt = TOKENIZER(client.request.prompt)["input_ids"][-client.request.truncate :]
            chosen = [token.id for token in client.tokens]
            assert chosen == follow(reference, prompt, chosen).tokens, client.request
    assert compilations() == compiled + compiled_by_poison


def test_short_prompts_share_a_piece_and_get_what_they_get_alone(tmp_path: Path) -> None:
    directory = save("llama", tmp_path)
    engine = engines.loader(directory, batch_size=4, max_length=64, skip_warmup=True).load()
    chance = random.Random(8)
    prompts = [chance.choices(range(3, 160), k=length) for length in (5, 30, 1, 40)]
    driver = Driver(engine)
    expected = [driver.alone(prompt, 5, PLAIN) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        engine.fill(slot, prompt, PLAIN)
    piece = engine.extend()
    assert dict(piece.held) == {0: 4, 1: 29, 3: 39}
    runs = [engine.start_step().choose().read() for _ in range(5)]
    assert [[step[slot][0].token_id for step in runs] for slot in range(4)] == expected


@pytest.mark.parametrize("length", [59, 61, 63])
def test_the_last_piece_of_a_prompt_that_fills_its_slot_is_computed_from_further_ahead(
    length: int, tmp_path: Path
) -> None:
    directory = save("llama", tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.loader(directory, batch_size=2, max_length=64, prefill_chunk=32, skip_warmup=True).load()
    prompt = random.Random(length).choices(range(3, 160), k=length)
    driver = Driver(engine)
    driver.join(0, prompt[:45])
    driver.step(1)
    # From a prefix whose length no piece ends at, so that the last row would reach past the slot.
    run = driver.join(1, prompt, prefix=Prefix(0, 41))
    driver.step(1)
    assert run.tokens == follow(reference, prompt, run.tokens).tokens


def test_in_bfloat16_a_prefix_changes_a_token_only_where_two_lie_within_rounding(tmp_path: Path) -> None:
    directory = save("llama", tmp_path, initializer_range=0.05, max_position_embeddings=MAX_LENGTH)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.engine(
        directory, batch_size=2, max_length=MAX_LENGTH, prefill_chunk=64, dtype="bfloat16"
    )
    driver, chance = Driver(engine), random.Random(4)
    changed = 0
    for _ in range(10):
        prompt = chance.choices(range(3, 160), k=100)
        whole = driver.join(0, prompt)
        driver.step(20)
        driver.leave(0)
        driver.join(0, prompt[: chance.randint(10, 90)])
        driver.leave(0)
        held = chance.randint(1, 9)
        reused = driver.join(1, prompt, prefix=Prefix(0, held))
        driver.step(20)
        driver.leave(1)
        differing = [place for place in range(20) if whole.tokens[place] != reused.tokens[place]]
        if differing:
            changed += 1
            place = differing[0]
            with torch.no_grad():
                logits = reference(torch.tensor([prompt + whole.tokens[:place]])).logits[0, -1]
            margin = logits[whole.tokens[place]] - logits[reused.tokens[place]]
            assert abs(float(margin)) < 0.1
    assert changed <= 3
