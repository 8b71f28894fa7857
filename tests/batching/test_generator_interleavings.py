"""Whatever joins, leaves and is cancelled in between: every request gets what it gets alone."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support import small_tokenizers
from support.reference import Answer, answer_alone
from support.rooms import token_by_token
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome, CachedBatch, Generation, GenerationRequest
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.errors import UnknownBatchError
from text_generation_server.text.tokenizer import ModelTokenizer

MAX_LENGTH = 32
TOKENIZER = small_tokenizers.byte_level()
EOS_IDS = frozenset({TOKENIZER.eos_token_id})
SPECIAL_IDS = frozenset(
    TOKENIZER.convert_tokens_to_ids(token)
    for token in (small_tokenizers.BOS, small_tokenizers.EOS, small_tokenizers.TOOL, small_tokenizers.MARKED)
)
WHOLE_TOKENS: list[int] = [
    token for token in range(len(TOKENIZER)) if "\ufffd" not in TOKENIZER.decode([token])
]
WORDS: list[int] = WHOLE_TOKENS[-60:] + [TOKENIZER.eos_token_id] * 3
"""What the model says; few enough tokens for stop sequences and EOS to occur."""


def next_token(history: Sequence[int]) -> int:
    return WORDS[zlib.crc32(repr(list(history)).encode()) % len(WORDS)]


REQUESTS = st.builds(
    GenerationRequest,
    id=st.just(0),
    prompt=st.sampled_from(["The quick", "fox", "学习", "a", "the lazy dog", "b"]),
    max_new_tokens=st.integers(1, 12),
    stop_sequences=st.lists(st.sampled_from(["e", " a", "学", "o", "<|"]), max_size=2).map(tuple),
    ignore_eos_token=st.booleans(),
)


@dataclass
class Tracked:
    """A request that the router knows, and what it received so far."""

    request: GenerationRequest
    expected: Answer
    received: list[Generation] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return bool(self.received) and self.received[-1].finished is not None

    def check(self) -> None:
        count = len(self.received)
        assert [g.tokens[0].id for g in self.received] == self.expected.token_ids[:count]
        assert [g.tokens[0].text for g in self.received] == self.expected.pieces[:count]
        assert [g.tokens[0].is_special for g in self.received] == [
            token in SPECIAL_IDS for token in self.expected.token_ids[:count]
        ]
        assert all(g.finished is None for g in self.received[:-1])
        if self.complete:
            finished = self.received[-1].finished
            assert finished is not None
            assert (finished.text, finished.finish_reason) == (self.expected.text, self.expected.reason)
            assert finished.generated_tokens == count == len(self.expected.token_ids)


class Router(RuleBasedStateMachine):
    """Plays a router that is freer than the real ones: it may decode any of its batches in any order."""

    batches: dict[int, list[Tracked]]

    @initialize(batch_size=st.integers(1, 4), tokens_per_step=st.integers(1, 3))
    def start(self, batch_size: int, tokens_per_step: int) -> None:
        self.batches = {}
        self.next_id = 0
        self.engine = FakeEngine(
            next_token=next_token,
            batch_size=batch_size,
            max_length=MAX_LENGTH,
            vocab_size=len(TOKENIZER),
            tokens_per_step=tokens_per_step,
        )
        self.generator = Generator(self.engine, ModelTokenizer.from_transformers(TOKENIZER), EOS_IDS)

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=4))
    def prefill(self, requests: list[GenerationRequest]) -> None:
        self.next_id += 1
        self.prefill_as(self.next_id, [self.next_id * 10 + index for index in range(len(requests))], requests)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), requests=st.lists(REQUESTS, min_size=1, max_size=2))
    def prefill_under_an_id_that_is_held(
        self, data: st.DataObject, requests: list[GenerationRequest]
    ) -> None:
        self.next_id += 1
        batch_id = data.draw(st.sampled_from(sorted(self.batches)))
        self.prefill_as(batch_id, [self.next_id * 10 + index for index in range(len(requests))], requests)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), request=REQUESTS)
    def prefill_with_a_request_id_that_is_alive(
        self, data: st.DataObject, request: GenerationRequest
    ) -> None:
        self.next_id += 1
        alive = [tracked.request.id for rows in self.batches.values() for tracked in rows]
        self.prefill_as(self.next_id, [data.draw(st.sampled_from(alive))], [request])

    @rule(request=REQUESTS)
    def prefill_with_a_bad_request_beside_a_good_one(self, request: GenerationRequest) -> None:
        self.next_id += 1
        bad = GenerationRequest(id=self.next_id * 10 + 1, prompt=request.prompt, max_new_tokens=MAX_LENGTH)
        self.prefill_as(self.next_id, [self.next_id * 10], [request], [bad])

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def decode(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.batches)), min_size=1, unique=True))
        for _ in range(data.draw(st.integers(1, 6))):
            self.decode_and_check(ids)
            ids = [batch_id for batch_id in ids[:1] if batch_id in self.batches]
            if not ids:
                return

    @precondition(lambda self: self.batches)
    @rule()
    def decode_all(self) -> None:
        assert self.decode_and_check(sorted(self.batches)), "a decode of everything makes progress"

    @rule()
    def decode_unknown(self) -> None:
        try:
            self.generator.decode([*self.batches, 10**9])
        except UnknownBatchError:
            return
        raise AssertionError("it was accepted")

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def filter(self, data: st.DataObject) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.batches)))
        rows = self.batches[batch_id]
        keep = data.draw(st.sets(st.sampled_from([tracked.request.id for tracked in rows])))
        self.batches[batch_id] = [tracked for tracked in rows if tracked.request.id in keep]
        batch = self.generator.filter(batch_id, [tracked.request.id for tracked in self.batches[batch_id]])
        self.check_batch(batch_id, batch)

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        batch_id = data.draw(st.sampled_from([*sorted(self.batches), 10**9]))
        self.generator.clear(batch_id)
        self.batches.pop(batch_id, None)

    @precondition(lambda self: sum(map(len, self.batches.values())) > 6)
    @rule()
    def clear_everything(self) -> None:
        self.generator.clear(None)
        self.batches = {}
        assert self.engine.live_slots == frozenset()

    @invariant()
    def every_request_has_a_prefix_of_what_it_gets_alone(self) -> None:
        for rows in self.batches.values():
            for tracked in rows:
                tracked.check()

    @invariant()
    def no_slot_is_live_without_a_request(self) -> None:
        assert len(self.engine.live_slots) <= sum(map(len, self.batches.values()))

    def teardown(self) -> None:
        last = [tracked for rows in getattr(self, "batches", {}).values() for tracked in rows]
        while getattr(self, "batches", None):
            self.decode_all()
        for tracked in last:
            assert tracked.complete
            tracked.check()
        if last:
            assert self.engine.live_slots == frozenset()

    def prefill_as(
        self,
        batch_id: int,
        ids: list[int],
        requests: list[GenerationRequest],
        bad: Sequence[GenerationRequest] = (),
    ) -> None:
        named = [
            GenerationRequest(
                id=request_id,
                prompt=request.prompt,
                max_new_tokens=request.max_new_tokens,
                stop_sequences=request.stop_sequences,
                ignore_eos_token=request.ignore_eos_token,
            )
            for request_id, request in zip(ids, requests, strict=True)
        ]
        self.batches.pop(batch_id, None)
        for held in list(self.batches):
            self.batches[held] = [tracked for tracked in self.batches[held] if tracked.request.id not in ids]
            if not self.batches[held]:
                del self.batches[held]
        self.batches[batch_id] = [
            Tracked(request, answer_alone(request, TOKENIZER, next_token, EOS_IDS, SPECIAL_IDS))
            for request in named
        ]
        outcome = self.generator.prefill(batch_id, [*named, *bad])
        assert set(outcome.failures) == {request.id for request in bad}
        self.receive(batch_id, outcome)

    def decode_and_check(self, ids: list[int]) -> int:
        rows = [tracked for batch_id in ids for tracked in self.batches.pop(batch_id)]
        self.batches[ids[0]] = rows
        outcome = self.generator.decode(ids)
        if any(tracked.received for tracked in rows):
            assert outcome.generations, "those who have a slot get on, whoever else is decoded"
        self.receive(ids[0], outcome)
        return len(outcome.generations)

    def receive(self, batch_id: int, outcome: BatchOutcome) -> None:
        rows = self.batches[batch_id]
        by_id = {tracked.request.id: tracked for tracked in rows}
        received = [generation.request_id for generation in outcome.generations]
        assert received == [request_id for request_id in by_id if request_id in received], (
            "order of rows, none twice"
        )
        for generation in outcome.generations:
            by_id[generation.request_id].received += token_by_token([generation])
        for tracked in rows:
            tracked.check()
        self.batches[batch_id] = [tracked for tracked in rows if not tracked.complete]
        self.check_batch(batch_id, outcome.batch)

    def check_batch(self, batch_id: int, batch: CachedBatch | None) -> None:
        rows = self.batches[batch_id]
        if not rows:
            del self.batches[batch_id]
            assert batch is None
            return
        assert batch is not None
        assert batch.id == batch_id
        assert batch.request_ids == [tracked.request.id for tracked in rows]
        assert 0 <= batch.max_tokens <= min(len(rows), self.engine.info.batch_size) * MAX_LENGTH
        assert batch.max_tokens % MAX_LENGTH == 0


TestRouter = Router.TestCase
TestRouter.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
