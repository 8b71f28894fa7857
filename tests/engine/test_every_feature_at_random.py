"""All features mixed at random on a tiny model: rows are independent, nothing compiles, bad requests fail alone."""

import dataclasses
import random
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from support import engines, small_tokenizers
from support.checkpoints import save
from support.lora_adapters import save_adapter
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import (
    BatchOutcome,
    GeneratedToken,
    Generation,
    GenerationRequest,
)
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.runtime.mesh import compilations
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

MAX_LENGTH = 96


@dataclass(frozen=True)
class Kind:
    """A cache on so many chips, and how many requests meet it. Four chips do not divide the two key heads of the model:
    so they share the slots."""

    chips: int
    requests: int
    cache_dtype: CacheDtype | None = None
    layout: CacheLayout = CacheLayout.HEADS

    def __str__(self) -> str:
        return f"{self.chips}-chips-{self.cache_dtype or 'as-the-model'}"


KINDS = [
    Kind(1, 150),
    Kind(4, 60),
    Kind(1, 40, CacheDtype.INT8, CacheLayout.LANES),
    Kind(2, 30, CacheDtype.FP8_E5M2),
]
TOKENIZER = small_tokenizers.byte_level()
EOS = frozenset({TOKENIZER.eos_token_id})
BEGINNINGS = ["You are an assistant. Answer in English. ", "You are an assistant. "]
REGEX = "[a-f]{2,5}(-[0-9]{1,3})?"
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
GRAMMARS = [Grammar(GrammarKind.REGEX, REGEX), Grammar(GrammarKind.JSON_SCHEMA, SCHEMA)]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"stop_sequences": ("",)}, "`stop`"),
    ({"top_n_tokens": 21}, "`top_n_tokens`"),
    ({"max_new_tokens": MAX_LENGTH}, "`max_new_tokens`"),
    ({"prompt": "", "add_special_tokens": False}, "`inputs`"),
    ({"grammar": Grammar(GrammarKind.REGEX, "(")}, "`grammar`"),
]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    given: Kind = request.param
    return given


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, kind: Kind) -> StaticBatchEngine:
    directory = tmp_path_factory.mktemp("everything")
    checkpoint = save("llama", directory / "model", vocab_size=len(TOKENIZER))
    adapters = [
        (name, save_adapter(checkpoint, directory / name, seed, r=3, target_modules="all-linear"))
        for seed, name in enumerate(("one", "two"))
    ]
    return engines.engine(
        checkpoint,
        batch_size=4,
        max_length=MAX_LENGTH,
        scores_prompts=True,
        adapters=adapters,
        chips=kind.chips,
        cache_dtype=kind.cache_dtype,
        layout=kind.layout,
        # Most prompts take several pieces.
        prefill_chunk=32,
    )


def random_sampling(chance: random.Random) -> SamplingParameters:
    return SamplingParameters(
        temperature=chance.choice([1.0, 1.0, 0.5, 1.3]),
        top_k=chance.choice([0, 0, 1, 40]),
        top_p=chance.choice([1.0, 1.0, 0.3, 0.95]),
        typical_p=chance.choice([1.0, 1.0, 0.9]),
        do_sample=chance.random() < 0.5,
        seed=chance.getrandbits(64),
        repetition_penalty=chance.choice([1.0, 1.3]),
        frequency_penalty=chance.choice([0.0, 1.0]),
        watermark=chance.random() < 0.2,
    )


def random_request(chance: random.Random, request_id: int) -> GenerationRequest:
    """Each feature is asked for by many and not by others."""
    words = chance.choices(["the", "quick", "Grüße", "😀", "世界", "\n"], k=chance.randint(1, 12))
    return GenerationRequest(
        id=request_id,
        prompt=chance.choice(["", "", *BEGINNINGS]) + " ".join(words),
        max_new_tokens=chance.randint(1, 24),
        truncate=chance.choice([0, 1, 5, 40]),
        add_special_tokens=chance.random() < 0.7,
        sampling=random_sampling(chance) if chance.random() < 0.7 else SamplingParameters(),
        stop_sequences=chance.choice([(), (), ("e",), ("th", "学", " q", "-")]),
        ignore_eos_token=chance.random() < 0.3,
        top_n_tokens=chance.choice([0, 0, 1, 5]),
        prompt_logprobs=chance.random() < 0.2,
        adapter_id=chance.choice([None, "one", "two", "gpt-4o"]),
        grammar=chance.choice([None, None, None, *GRAMMARS]),
    )


@dataclass
class Client:
    """What one request was promised and what it got."""

    request: GenerationRequest
    expected_failure: str | None = None
    cancelled: bool = False
    answer: list[Generation] = field(default_factory=list)
    failure: str | None = None


@dataclass
class Service:
    """A generator and those who were answered."""

    generator: Generator
    clients: dict[int, Client] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)

    def prefill(self, batch_id: int, clients: list[Client]) -> int | None:
        self.clients |= {client.request.id: client for client in clients}
        self.waiting |= {client.request.id for client in clients}
        return self.deliver(self.generator.prefill(batch_id, [client.request for client in clients]))

    def deliver(self, outcome: BatchOutcome) -> int | None:
        for generation in outcome.generations:
            client = self.clients[generation.request_id]
            assert client.request.id in self.waiting, "an answer for a request that has ended or left"
            client.answer.append(generation)
            if generation.finished:
                self.waiting.remove(client.request.id)
        for request_id, message in outcome.failures.items():
            self.clients[request_id].failure = message
            self.waiting.remove(request_id)
        return outcome.batch.id if outcome.batch else None

    def cancel(self, batch_id: int, request_id: int) -> int | None:
        self.clients[request_id].cancelled = True
        self.waiting.remove(request_id)
        kept = self.generator.filter(batch_id, sorted(self.waiting))
        return kept.id if kept else None


def answer_alone(engine: StaticBatchEngine, request: GenerationRequest) -> list[Generation]:
    service = Service(Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), EOS))
    running = service.prefill(0, [client := Client(request)])
    while running is not None:
        running = service.deliver(service.generator.decode([running]))
    return client.answer


def serve_at_random(engine: StaticBatchEngine, chance: random.Random, count: int) -> list[Client]:
    """So many requests join in small batches, good and bad ones together, and some leave."""
    service = Service(Generator(engine, ModelTokenizer.from_transformers(TOKENIZER), EOS))
    running: int | None = None
    batch_id = 0
    while len(service.clients) < count or running is not None:
        batches = [running] if running is not None else []
        if len(service.clients) < count and (running is None or chance.random() < 0.3):
            joining = []
            for each in range(chance.randint(1, 5)):
                request = random_request(chance, len(service.clients) + each)
                if chance.random() < 0.15:
                    changes, refused = chance.choice(BAD)
                    joining.append(Client(dataclasses.replace(request, **changes), refused))
                else:
                    joining.append(Client(request))
            joined = service.prefill(batch_id, joining)
            batches += [joined] if joined is not None else []
            batch_id += 1
        running = service.deliver(service.generator.decode(batches)) if batches else None
        if running is not None and service.waiting and chance.random() < 0.1:
            running = service.cancel(running, chance.choice(sorted(service.waiting)))
    assert not service.waiting, "an answer was lost"
    return list(service.clients.values())


def test_random_requests_for_every_feature_get_the_same_answers_alone_and_together(
    engine: StaticBatchEngine, kind: Kind
) -> None:
    compiled = compilations()
    clients = serve_at_random(engine, random.Random(20), kind.requests)
    others = 0
    for client in clients:
        if client.cancelled:
            continue
        if client.expected_failure:
            assert client.failure is not None, client.request
            assert client.expected_failure in client.failure
            assert not client.answer
            continue
        assert client.failure is None, client.request
        check_end(client)
        alone = answer_alone(engine, client.request)
        if kind.cache_dtype is None:
            compare(client.answer, alone)
        else:
            others += ids(client.answer) != ids(alone)
    # A number that lies between two of one byte is rounded by the last bit of a sum, see docs/quantisation.md.
    assert others <= kind.requests // 20
    assert sum(client.cancelled for client in clients) > kind.requests // 30
    assert sum(client.expected_failure is not None for client in clients) > kind.requests // 15
    assert compilations() == compiled


def compare(together: list[Generation], alone: list[Generation]) -> None:
    """Equal, but for the last digits of logprobs."""
    assert ids(together) == ids(alone)
    assert together[-1].finished == alone[-1].finished
    for token, its_twin in zip(tokens_of(together), tokens_of(alone), strict=True):
        assert token.text == its_twin.text
        assert token.logprob == pytest.approx(its_twin.logprob, abs=1e-4)
    assert alternatives(together) == alternatives(alone)
    one, other = together[0].prompt, alone[0].prompt
    assert (one is None) == (other is None)
    if one and other:
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4, nan_ok=True)


def tokens_of(answer: list[Generation]) -> list[GeneratedToken]:
    return [token for generation in answer for token in generation.tokens]


def ids(answer: list[Generation]) -> list[int]:
    return [token.id for token in tokens_of(answer)]


def alternatives(answer: list[Generation]) -> list[list[int]]:
    """For each token, the ids of the best ones in its place."""
    return [[token.id for token in best] for generation in answer for best in generation.top_tokens]


def check_end(client: Client) -> None:
    """The promises that can be told from an answer alone."""
    request, answer = client.request, client.answer
    end = answer[-1].finished
    assert end is not None
    tokens = tokens_of(answer)
    assert end.generated_tokens == len(tokens) <= request.max_new_tokens
    assert "".join(token.text for token in tokens if not token.is_special) == end.text
    assert (end.seed is not None) == request.sampling.samples
    assert all(map(any, (each.top_tokens for each in answer))) == (request.top_n_tokens > 0)
    assert (answer[0].prompt is not None) == request.prompt_logprobs
    if request.grammar == GRAMMARS[0] and end.finish_reason.value == "eos_token":
        assert re.fullmatch(REGEX, end.text)
