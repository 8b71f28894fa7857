"""Random requests: nothing compiles, nothing falls back to the host, no answer is lost, memory stays flat."""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.conftest import LoadedEngine
from support import engines
from support.checkpoints import save
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome, GeneratedText, GenerationRequest
from text_generation_server.engine.contract import WarmupProgress
from text_generation_server.runtime.cache import ProgramCache
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

REQUESTS = 100
# Growth that may come from allocators settling down; one KV cache of this engine alone is 90 MiB.
SETTLING_BYTES = 60 * 2**20


@dataclass
class Client:
    """What one request was promised and what it got."""

    request: GenerationRequest
    cancelled: bool = False
    pieces: list[str] = field(default_factory=list)
    finished: GeneratedText | None = None


def random_sampling(chance: random.Random) -> SamplingParameters:
    if chance.random() < 0.4:
        return SamplingParameters()
    return SamplingParameters(
        temperature=chance.choice([1.0, 0.5, 1.3]),
        top_k=chance.choice([0, 1, 40, 100_000]),
        top_p=chance.choice([1.0, 0.3, 0.95]),
        typical_p=chance.choice([1.0, 0.9]),
        do_sample=chance.random() < 0.5,
        seed=chance.getrandbits(64),
        repetition_penalty=chance.choice([1.0, 1.3]),
        frequency_penalty=chance.choice([0.0, 1.0]),
    )


def random_request(chance: random.Random, request_id: int) -> GenerationRequest:
    return GenerationRequest(
        id=request_id,
        prompt=" ".join(
            chance.choices(["water", "Zürich", "🙂", "def", "42", "東京", "\n"], k=chance.randint(1, 90))
        ),
        max_new_tokens=chance.randint(1, 24),
        truncate=chance.choice([0, 1, 30, 200]),
        sampling=random_sampling(chance),
        stop_sequences=chance.choice([(), ("the",), (".", "\n\n")]),
        ignore_eos_token=chance.random() < 0.2,
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_random_requests_are_answered_by_the_programs_of_the_warm_up(
    loaded: LoadedEngine,
) -> None:
    chance = random.Random(11)
    generator = Generator(
        loaded.engine, ModelTokenizer.from_transformers(loaded.tokenizer), loaded.eos_token_ids
    )
    compiled = compilations()
    clients: dict[int, Client] = {}
    running: int | None = None
    alive: set[int] = set()
    memory: list[int] = []

    def deliver(outcome: BatchOutcome) -> int | None:
        for generation in outcome.generations:
            client = clients[generation.request_id]
            assert not client.cancelled, "an answer for a request that was cancelled"
            assert client.finished is None, "a second end of one answer"
            client.pieces += ["" if token.is_special else token.text for token in generation.tokens]
            if generation.finished:
                client.finished = generation.finished
                alive.remove(generation.request_id)
        return outcome.batch.id if outcome.batch else None

    batch_id = 0
    while len(clients) < REQUESTS or running is not None:
        if len(clients) < REQUESTS and (running is None or chance.random() < 0.3):
            joining = [random_request(chance, len(clients) + i) for i in range(chance.randint(1, 6))]
            clients.update({request.id: Client(request) for request in joining})
            alive.update(request.id for request in joining)
            joined = deliver(generator.prefill(batch_id, joining))
            batches = [held for held in (running, joined) if held is not None]
            batch_id += 1
        else:
            batches = [running] if running is not None else []
        running = deliver(generator.decode(batches)) if batches else None
        if running is not None and chance.random() < 0.1:
            leaving = chance.choice(sorted(alive))
            clients[leaving].cancelled = True
            alive.remove(leaving)
            kept = generator.filter(running, sorted(alive))
            running = kept.id if kept else None
        memory.append(resident_bytes())

    for client in clients.values():
        if client.cancelled:
            continue
        assert client.finished is not None, f"request {client.request.id} was lost"
        assert "".join(client.pieces) == client.finished.text
        assert client.finished.generated_tokens <= client.request.max_new_tokens
        assert (client.finished.seed is not None) == client.request.sampling.samples
    assert sum(client.cancelled for client in clients.values()) > 5
    assert compilations() == compiled
    assert memory[-1] - memory[len(memory) // 3] < SETTLING_BYTES


def test_warm_up_reports_each_program_that_was_not_kept_once_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save("llama", tmp_path / "model")
    monkeypatch.setattr(engines, "CACHE", ProgramCache(tmp_path / "programs"))
    first, second = list[WarmupProgress](), list[WarmupProgress]()
    for steps in (first, second):
        engines.loader(directory, batch_size=2, max_length=64).load().warm_up(steps.append)
    assert [step.index for step in first] == list(range(1, len(first) + 1))
    assert {step.count for step in first} == {len(first)}
    assert len({step.program for step in first}) == len(first)
    assert all(step.seconds > 0 for step in first)
    assert second == []


def test_a_second_warm_up_compiles_nothing(loaded: LoadedEngine) -> None:
    compiled = compilations()
    loaded.engine.warm_up(refuse)
    assert compilations() == compiled


def refuse(step: WarmupProgress) -> None:
    raise AssertionError(f"{step.program} was compiled again")
