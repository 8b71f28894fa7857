"""Continuous batching: the loop that turns waiting requests into prefill and decode calls.

It makes the same calls in the same order as the stock router (protocol sections 1.6, 3 and 5). There is never
more than one call in flight.
"""

import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from loguru import logger

from tpu_tgi.router.errors import GenerationError, ShardError, ShardProtocolError
from tpu_tgi.router.metrics import Metrics
from tpu_tgi.router.scheduling.channel import NewToken, PromptTokens
from tpu_tgi.router.scheduling.queue import Entry, WaitingQueue
from tpu_tgi.router.shard.client import ShardClient
from tpu_tgi.router.shard.generation import CachedBatch, Generation, NewBatch, Step
from tpu_tgi.router.tracing import Tracing


@dataclass(frozen=True)
class BatchingRules:
    """Who is let into a running batch, and when (protocol section 3.1).

    Attributes:
        max_size: None if only the cache blocks bound the batch.
        prefill_tokens: prompt tokens that one prefill may hold.
        total_tokens: what the shard said it can hold; a batch that holds as much admits nobody.
        waiting_served_ratio: a batch of n admits floor(ratio * n) requests or more, or none.
        max_waiting_tokens: after so many steps without an admission it admits fewer, too.
        chunking: whether a prefill takes the running batch along; it admits at every step then.
    """

    max_size: int | None
    prefill_tokens: int
    total_tokens: int
    waiting_served_ratio: float
    max_waiting_tokens: int
    chunking: bool


class BatchingLoop:
    """Serves the queue until it is cancelled."""

    def __init__(
        self,
        client: ShardClient,
        queue: WaitingQueue,
        rules: BatchingRules,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._client = client
        self._queue = queue
        self._rules = rules
        self._metrics = metrics
        self._tracing = tracing
        # Steps since the running batch last admitted somebody.
        self._waiting_tokens = 0
        # The requests that the shard works on, by request id.
        self._entries: dict[int, Entry] = {}
        # Those of them that are in their first prefill beside a running batch.
        self._joining: dict[int, Entry] = {}

    async def run(self) -> None:
        """Runs until cancelled. Raises ShardProtocolError if the shard's answers make no sense."""
        try:
            while True:
                await self._queue.wait_for_arrival()
                while admission := self._queue.next_batch(
                    None, self._rules.max_size, self._rules.prefill_tokens, self._rules.total_tokens
                ):
                    self._entries = admission.entries
                    batch = await self._prefill(admission.batch, None, self._entries)
                    self._waiting_tokens = 1
                    while batch is not None:
                        self._show(batch.size, batch.max_tokens)
                        batch = await self._step(batch)
                        self._waiting_tokens += 1
                    self._show(0, 0)
                    self._end_all(self._entries)
        finally:
            self._end_all(self._entries)
            self._end_all(self._joining)
            self._queue.end_all()

    async def _step(self, batch: CachedBatch) -> CachedBatch | None:
        """Admits who fits, then decodes once."""
        rules = self._rules
        token_budget = max(0, rules.total_tokens - batch.max_tokens)
        if rules.chunking:
            prefill_budget = rules.prefill_tokens - batch.current_tokens
            admission = self._queue.next_batch(None, None, prefill_budget, token_budget)
            if admission is None:
                return await self._decode([batch])
            self._metrics.count("tgi_batch_concat", reason="chunking")
            # The shard merges: one call advances old and new requests, and fails for all of them.
            self._entries |= admission.entries
            merged = await self._prefill(admission.batch, batch, self._entries)
            return None if merged is None else await self._decode([merged])

        waited = self._waiting_tokens >= rules.max_waiting_tokens
        min_size = None if waited else math.floor(batch.size * rules.waiting_served_ratio)
        max_size = None if rules.max_size is None else max(0, rules.max_size - batch.size)
        admission = self._queue.next_batch(min_size, max_size, rules.prefill_tokens, token_budget)
        if admission is None:
            return await self._decode([batch])
        self._metrics.count("tgi_batch_concat", reason="wait_exceeded" if waited else "backpressure")
        self._waiting_tokens = 1
        self._joining = admission.entries
        new_batch = await self._prefill(admission.batch, None, self._joining)
        if new_batch is None:
            self._end_all(self._joining)
            return await self._decode([batch])
        self._entries |= self._joining
        self._joining = {}
        return await self._decode([batch, new_batch])

    async def _prefill(
        self, new: NewBatch, cached: CachedBatch | None, entries: dict[int, Entry]
    ) -> CachedBatch | None:
        return await self._call("prefill", self._client.prefill(new, cached), [new.id], entries)

    async def _decode(self, batches: list[CachedBatch]) -> CachedBatch | None:
        ids = [batch.id for batch in batches]
        return await self._call("decode", self._client.decode(batches), ids, self._entries)

    async def _call(
        self, method: str, call: Awaitable[Step], batch_ids: list[int], entries: dict[int, Entry]
    ) -> CachedBatch | None:
        """Makes a call and passes its tokens on. Returns the batch that is left, None also after a failure."""
        metrics = self._metrics
        metrics.count("tgi_batch_inference_count", method=method)
        called = time.perf_counter()
        try:
            with self._tracing.shard_call(method, (entry.trace for entry in entries.values())):
                step = await call
        except ShardError as error:
            await self._fail(error, batch_ids, entries)
            metrics.count("tgi_batch_inference_failure", method=method)
            return None
        answered = time.perf_counter()
        batch = await self._take(step, entries)
        taken = time.perf_counter()
        if step.concat_seconds is not None:
            # Whatever the call was (the stock rule).
            metrics.observe("tgi_batch_concat_duration", step.concat_seconds, method="decode")
        metrics.observe("tgi_batch_forward_duration", step.forward_seconds, method=method)
        metrics.observe("tgi_batch_decode_duration", step.decode_seconds, method=method)
        metrics.observe("tgi_batch_filter_duration", taken - answered, method=method)
        metrics.observe("tgi_batch_inference_duration", taken - called, method=method)
        metrics.count("tgi_batch_inference_success", method=method)
        return batch

    async def _take(self, step: Step, entries: dict[int, Entry]) -> CachedBatch | None:
        """Passes tokens on, then tells the shard which of its requests are over.

        Returns the batch that is left to decode. The shard is asked to filter whenever it holds another
        number of requests than this loop tracks: some have finished, or their clients have left.
        """
        for generation in step.generations:
            entry = entries.get(generation.request_id)
            if entry is None:
                raise ShardProtocolError(
                    f"The shard sent a token for request {generation.request_id}, which is over"
                )
            if entry.channel.closed:
                self._metrics.failed("dropped")
            else:
                self._metrics.skipped(len(generation.tokens) - 1)
            if send(generation, entry):
                self._queue.free(entries.pop(generation.request_id))
        batch = step.batch
        if batch is None or batch.size == len(entries):
            return batch
        keep = [request_id for request_id in batch.request_ids if request_id in entries]
        try:
            if keep:
                return await self._client.filter_batch(batch.id, keep)
            await self._client.clear_cache(batch.id)
        except ShardError as error:
            await self._fail(error, [batch.id], entries)
        return None

    async def _fail(self, error: ShardError, batch_ids: list[int], entries: dict[int, Entry]) -> None:
        """Fails every entry of a call and has the shard forget its batches."""
        logger.error("{} requests failed: {}", len(entries), error)
        for batch_id in batch_ids:
            try:
                await self._client.clear_cache(batch_id)
            except ShardError as clear_error:
                logger.error("The shard could not clear batch {}: {}", batch_id, clear_error)
        for entry in entries.values():
            self._metrics.failed("generation")
            entry.channel.fail(GenerationError(str(error)))
            self._queue.free(entry)
        entries.clear()

    def _show(self, size: int, max_tokens: int) -> None:
        """The running batch, for the metrics."""
        self._metrics.set("tgi_batch_current_size", size)
        self._metrics.set("tgi_batch_current_max_tokens", max_tokens)

    def _end_all(self, entries: dict[int, Entry]) -> None:
        """The shard knows nothing of these any more; whoever is not finished gets an incomplete answer."""
        for entry in entries.values():
            entry.channel.end()
            self._queue.free(entry)
        entries.clear()


def send(generation: Generation, entry: Entry) -> bool:
    """Passes one generation to its client; True if the request is over: finished, or the client has left."""
    channel = entry.channel
    if channel.closed:
        return True
    if generation.prefill is not None:
        channel.send(PromptTokens(generation.prefill))
    last = len(generation.tokens) - 1
    for index, token in enumerate(generation.tokens):
        top_tokens = generation.top_tokens[index] if index < len(generation.top_tokens) else ()
        channel.send(NewToken(token, top_tokens, generation.finished if index == last else None))
    if generation.finished is None:
        return False
    channel.end()
    return True
