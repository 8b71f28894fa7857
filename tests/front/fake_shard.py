"""A shard without a model that refuses, and remembers, every call that a correct router would not make.

What a request gets is decided by words of its prompt, so that a test says there what it wants:

* `eos-3`: the third token is EOS; without it a request runs to max_new_tokens;
* `fail-prefill`, `fail-decode`: the call in which this request takes part fails;
* `lose`: after the first token the shard forgets the request;
* `write-TEXT`: under a grammar the answer is TEXT with spaces for its `~`, four characters a token, and then EOS.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio

from text_generation_server.pb import messages_pb2 as pb

LIVENESS_ID = 2**64 - 1
EOS_ID = 2

StepResponse = TypeVar("StepResponse", pb.PrefillResponse, pb.DecodeResponse)


class ProtocolViolationError(AssertionError):
    """A call that a picky shard does not forgive."""


@dataclass
class LiveRequest:
    """A request that the shard has not been told to forget."""

    message: pb.Request
    generated: int = 0
    finished: bool = False

    @property
    def words(self) -> list[str]:
        return self.message.input_chunks.chunks[0].text.split()

    @property
    def script(self) -> list[str]:
        """The tokens to write, if the prompt says them and a grammar is in force."""
        words = [word.removeprefix("write-") for word in self.words if word.startswith("write-")]
        if not words or self.message.parameters.grammar_type == pb.GRAMMAR_TYPE_NONE:
            return []
        text = words[-1].replace("~", " ")
        return [text[start : start + 4] for start in range(0, len(text), 4)]


@dataclass
class FakeShard:
    """The servicer. Every violation is kept in `violations`; calls are kept as (name, what it was about).

    While `hold_at` is set, steps wait once so many calls have been made.
    """

    socket_path: str
    batch_size: int = 4
    max_length: int = 64
    support_chunking: bool = False
    requires_padding: bool = False
    step_seconds: float = 0.0
    broken: bool = False
    hold_at: int | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    requests: list[pb.Request] = field(default_factory=list)
    largest_batch: int = 0
    warmups: list[pb.WarmupRequest] = field(default_factory=list)
    traceparents: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._batches: dict[int, list[LiveRequest]] = {}
        self._told: dict[int, pb.CachedBatch] = {}
        self._seen_requests: set[int] = set()
        self._seen_batches: set[int] = set()
        self._busy = False
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        methods: dict[str, tuple[Callable[[Any], Awaitable[Any]], Any, bool]] = {
            "ServiceDiscovery": (self.service_discovery, pb.ServiceDiscoveryRequest, True),
            "ClearCache": (self.clear_cache, pb.ClearCacheRequest, True),
            "Info": (self.info, pb.InfoRequest, True),
            "Warmup": (self.warm_up, pb.WarmupRequest, True),
            "Prefill": (self.prefill, pb.PrefillRequest, True),
            "Decode": (self.decode, pb.DecodeRequest, True),
            "FilterBatch": (self.filter_batch, pb.FilterBatchRequest, True),
            "Health": (self.health, pb.HealthRequest, False),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self.one_at_a_time(method) if exclusive else self.answering(method),
                request_deserializer=request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (method, request, exclusive) in methods.items()
        }
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("generate.v3.TextGenerationService", handlers),)
        )
        self._server.add_insecure_port(f"unix:{self.socket_path}")
        await self._server.start()

    async def stop(self) -> None:
        """Cuts every call off, as the death of the process would."""
        if self._server is not None:
            await self._server.stop(grace=None)

    def count(self, name: str) -> int:
        return sum(1 for call, _ in self.calls if call == name)

    @property
    def is_empty(self) -> bool:
        return not self._batches

    def answering(self, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            traceparent = dict(context.invocation_metadata()).get("traceparent")
            self.traceparents.append((type(request).__name__, traceparent))
            try:
                return await method(request)
            except ProtocolViolationError as violation:
                self.violations.append(str(violation))
                await context.abort(grpc.StatusCode.INTERNAL, str(violation))
            except RuntimeError as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))

        return call

    def one_at_a_time(self, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """The router never has two calls in flight, health checks aside."""
        answering = self.answering(method)

        async def call(request: Any, context: Any) -> Any:
            if isinstance(request, pb.PrefillRequest) and request.batch.id == LIVENESS_ID:
                return await answering(request, context)
            if self._busy:
                self.violations.append(f"{type(request).__name__} while another call is in flight")
            self._busy = True
            try:
                return await answering(request, context)
            finally:
                self._busy = False

        return call

    async def service_discovery(self, _: pb.ServiceDiscoveryRequest) -> pb.ServiceDiscoveryResponse:
        self.calls.append(("ServiceDiscovery", None))
        return pb.ServiceDiscoveryResponse(urls=[f"unix://{self.socket_path}"])

    async def info(self, _: pb.InfoRequest) -> pb.InfoResponse:
        self.calls.append(("Info", None))
        return pb.InfoResponse(
            requires_padding=self.requires_padding,
            dtype="float32",
            device_type="fake",
            support_chunking=self.support_chunking,
            attention_impl="static",
            block_size=self.max_length,
        )

    async def warm_up(self, request: pb.WarmupRequest) -> pb.WarmupResponse:
        self.calls.append(("Warmup", None))
        self.warmups.append(request)
        return pb.WarmupResponse(
            max_supported_total_tokens=(self.batch_size + 1) * self.max_length,
            max_input_tokens=request.max_input_tokens or self.max_length - 1,
            max_total_tokens=self.max_length,
        )

    async def health(self, _: pb.HealthRequest) -> pb.HealthResponse:
        self.calls.append(("Health", None))
        return pb.HealthResponse()

    async def clear_cache(self, request: pb.ClearCacheRequest) -> pb.ClearCacheResponse:
        if request.HasField("id"):
            self.calls.append(("ClearCache", request.id))
            self._batches.pop(request.id, None)
        else:
            self.calls.append(("ClearCache", None))
            self._batches.clear()
        return pb.ClearCacheResponse()

    async def filter_batch(self, request: pb.FilterBatchRequest) -> pb.FilterBatchResponse:
        keep = list(request.request_ids)
        self.calls.append(("FilterBatch", (request.batch_id, keep)))
        batch = self.known(request.batch_id)
        ids = [live.message.id for live in batch]
        require(bool(keep), "FilterBatch that keeps nothing")
        require(keep == [i for i in ids if i in set(keep)], f"FilterBatch keeps {keep} of {ids}")
        kept = [live for live in batch if live.message.id in keep]
        require(len(kept) < len(batch), "FilterBatch that filters nothing")
        self._batches[request.batch_id] = kept
        return pb.FilterBatchResponse(batch=self.describe(request.batch_id))

    async def prefill(self, request: pb.PrefillRequest) -> pb.PrefillResponse:
        if request.batch.id == LIVENESS_ID:
            return await self.liveness(request.batch)
        ids = [message.id for message in request.batch.requests]
        self.calls.append(("Prefill", ids))
        require(bool(self.warmups), "Prefill before Warmup")
        require(request.batch.id not in self._seen_batches, f"batch {request.batch.id} is prefilled twice")
        require(request.batch.size == len(ids) > 0, f"size {request.batch.size} for {len(ids)} requests")
        self._seen_batches.add(request.batch.id)
        cached: list[LiveRequest] = []
        batch_id = request.batch.id
        if request.HasField("cached_batch"):
            require(self.support_chunking, "cached_batch without chunking")
            cached = self.take(request.cached_batch)
            batch_id = request.cached_batch.id
        else:
            require(not (self.support_chunking and self._batches), "no cached_batch while one is running")
        new = [self.admit(message) for message in request.batch.requests]
        await self.step()
        fail_if_asked("fail-prefill", new)
        self._batches[batch_id] = [*cached, *new]
        response = pb.PrefillResponse(generations=[self.advance(live) for live in [*cached, *new]])
        return self.finish(response, batch_id)

    async def decode(self, request: pb.DecodeRequest) -> pb.DecodeResponse:
        ids = [batch.id for batch in request.batches]
        self.calls.append(("Decode", ids))
        require(1 <= len(ids) <= 2, f"{len(ids)} batches in one Decode")
        require(set(ids) == set(self._batches), f"Decode of {ids}, held are {list(self._batches)}")
        rows = [live for batch in request.batches for live in self.take(batch)]
        require(not any(live.finished for live in rows), "Decode of a finished request")
        await self.step()
        fail_if_asked("fail-decode", rows)
        self._batches[ids[0]] = rows
        response = pb.DecodeResponse(generations=[self.advance(live) for live in rows])
        return self.finish(response, ids[0])

    async def liveness(self, batch: pb.Batch) -> pb.PrefillResponse:
        self.calls.append(("Liveness", None))
        message = batch.requests[0]
        require(message.id == LIVENESS_ID and list(message.blocks) == [0], f"liveness probe {message}")
        if self.broken:
            raise RuntimeError("the engine is broken")
        return pb.PrefillResponse()

    async def step(self) -> None:
        while self.hold_at is not None and len(self.calls) >= self.hold_at:
            await asyncio.sleep(0.005)
        await asyncio.sleep(self.step_seconds)

    def known(self, batch_id: int) -> list[LiveRequest]:
        require(batch_id in self._batches, f"Batch ID {batch_id} not found in cache.")
        return self._batches[batch_id]

    def take(self, batch: pb.CachedBatch) -> list[LiveRequest]:
        rows = self.known(batch.id)
        require(batch == self._told[batch.id], f"the router changed what it was told of batch {batch.id}")
        del self._batches[batch.id]
        return rows

    def admit(self, message: pb.Request) -> LiveRequest:
        require(message.id not in self._seen_requests, f"request {message.id} is prefilled twice")
        self._seen_requests.add(message.id)
        self.requests.append(message)
        owned = [block for rows in self._batches.values() for live in rows for block in live.message.blocks]
        (block,) = message.blocks
        require(1 <= block <= self.batch_size, f"block {block} does not exist")
        require(block not in owned, f"block {block} has an owner already")
        first = block * self.max_length
        require(len(message.slots) < self.max_length, f"{len(message.slots)} slots for one request")
        require(list(message.slots) == list(range(first, first + len(message.slots))), "slots out of order")
        require(0 < message.truncate < self.max_length, f"truncate {message.truncate}")
        require(message.stopping_parameters.max_new_tokens > 0, "max_new_tokens 0")
        require(not message.stopping_parameters.ignore_eos_token, "ignore_eos_token")
        return LiveRequest(message)

    def advance(self, live: LiveRequest) -> pb.Generation:
        live.generated += 1
        message, n = live.message, live.generated
        script = live.script
        eos = next((int(word[4:]) for word in live.words if re.fullmatch(r"eos-\d+", word)), 0)
        eos = len(script) + 1 if script else eos
        limit = message.stopping_parameters.max_new_tokens
        token_id, text = (EOS_ID, "</s>") if n == eos else (100 + n, script[n - 1] if script else f" é{n}")
        generation = pb.Generation(
            request_id=message.id,
            tokens=pb.Tokens(ids=[token_id], logprobs=[-0.34 * n], texts=[text], is_special=[n == eos]),
        )
        if n == 1 and message.prefill_logprobs:
            generation.prefill_tokens.CopyFrom(
                pb.Tokens(ids=[1, 7], logprobs=[math.nan, -1.5], texts=["<s>", "word"], is_special=[])
            )
        if message.top_n_tokens:
            ids = [100 + n + extra for extra in range(message.top_n_tokens)]
            generation.top_tokens.append(
                pb.Tokens(
                    ids=ids,
                    logprobs=[-0.5 - extra for extra in range(len(ids))],
                    texts=["x"] * len(ids),
                    is_special=[False] * len(ids),
                )
            )
        said = script or [f" é{i}" for i in range(1, n + 1)]
        answer = "".join(said[: n - (n == eos)])
        stops = [stop for stop in message.stopping_parameters.stop_sequences if answer.endswith(stop)]
        if n in (eos, limit) or stops:
            live.finished = True
            generation.generated_text.text = answer
            generation.generated_text.generated_tokens = n
            generation.generated_text.finish_reason = (
                pb.FINISH_REASON_LENGTH
                if n == limit
                else pb.FINISH_REASON_EOS_TOKEN
                if n == eos
                else pb.FINISH_REASON_STOP_SEQUENCE
            )
            if message.parameters.do_sample:
                generation.generated_text.seed = message.parameters.seed
        return generation

    def finish(self, response: StepResponse, batch_id: int) -> StepResponse:
        rows = self._batches[batch_id]
        self.largest_batch = max(self.largest_batch, sum(len(batch) for batch in self._batches.values()))
        require(
            self.largest_batch <= self.batch_size,
            f"{self.largest_batch} requests in a batch of {self.batch_size}",
        )
        lost = any("lose" in live.words for live in rows)
        if lost or all(live.finished for live in rows):
            del self._batches[batch_id]
        else:
            # As in TGI, finished requests are listed until the router filters them.
            response.batch.CopyFrom(self.describe(batch_id))
        return response

    def describe(self, batch_id: int) -> pb.CachedBatch:
        rows = self._batches[batch_id]
        self._told[batch_id] = pb.CachedBatch(
            id=batch_id,
            request_ids=[live.message.id for live in rows],
            size=len(rows),
            max_tokens=len(rows) * self.max_length,
            current_tokens=len(rows),
        )
        return self._told[batch_id]


def require(holds: bool, violation: str) -> None:
    if not holds:
        raise ProtocolViolationError(violation)


def fail_if_asked(word: str, rows: list[LiveRequest]) -> None:
    """The batch is lost with it, as in TGI, where a batch that raised was taken out of the cache before."""
    if any(word in live.words for live in rows):
        raise RuntimeError(f"asked to {word}")
