"""Continuous batching: the loop that turns waiting requests into prefill and decode calls.

It makes the same calls in the same order as the stock router (protocol sections 1.6, 3 and 5), with
`waiting_served_ratio` 0: admission is tried at every step. There is never more than one call in flight.
"""

import logging

from tpu_tgi.router.channel import NewToken, PromptTokens
from tpu_tgi.router.errors import GenerationError, ShardError, ShardProtocolError
from tpu_tgi.router.generation import CachedBatch, Generation, NewBatch, Step
from tpu_tgi.router.queue import Entry, WaitingQueue
from tpu_tgi.router.shard_client import ShardClient

logger = logging.getLogger(__name__)


class BatchingLoop:
    """Serves the queue until it is cancelled.

    Args:
        max_batch_size: None if only the cache blocks bound the batch.
        max_batch_prefill_tokens: prompt tokens that one prefill may hold.
        max_batch_total_tokens: what the shard said it can hold; a batch that holds as much admits nobody.
    """

    def __init__(
        self,
        client: ShardClient,
        queue: WaitingQueue,
        max_batch_size: int | None,
        max_batch_prefill_tokens: int,
        max_batch_total_tokens: int,
        support_chunking: bool,
    ) -> None:
        self._client = client
        self._queue = queue
        self._max_batch_size = max_batch_size
        self._max_batch_prefill_tokens = max_batch_prefill_tokens
        self._max_batch_total_tokens = max_batch_total_tokens
        self._support_chunking = support_chunking
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
                    self._max_batch_size, self._max_batch_prefill_tokens, self._max_batch_total_tokens
                ):
                    self._entries = admission.entries
                    batch = await self._prefill(admission.batch, None, self._entries)
                    while batch is not None:
                        batch = await self._step(batch)
                    self._end_all(self._entries)
        finally:
            self._end_all(self._entries)
            self._end_all(self._joining)
            self._queue.end_all()

    async def _step(self, batch: CachedBatch) -> CachedBatch | None:
        """Admits who fits, then decodes once."""
        token_budget = max(0, self._max_batch_total_tokens - batch.max_tokens)
        if self._support_chunking:
            prefill_budget = self._max_batch_prefill_tokens - batch.current_tokens
            admission = self._queue.next_batch(None, prefill_budget, token_budget)
            if admission is None:
                return await self._decode([batch])
            # The shard merges: one call advances old and new requests, and fails for all of them.
            self._entries |= admission.entries
            merged = await self._prefill(admission.batch, batch, self._entries)
            return None if merged is None else await self._decode([merged])

        max_size = None if self._max_batch_size is None else max(0, self._max_batch_size - batch.size)
        admission = self._queue.next_batch(max_size, self._max_batch_prefill_tokens, token_budget)
        if admission is None:
            return await self._decode([batch])
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
        try:
            step = await self._client.prefill(new, cached)
        except ShardError as error:
            await self._fail(error, [new.id], entries)
            return None
        return await self._take(step, entries)

    async def _decode(self, batches: list[CachedBatch]) -> CachedBatch | None:
        try:
            step = await self._client.decode(batches)
        except ShardError as error:
            await self._fail(error, [batch.id for batch in batches], self._entries)
            return None
        return await self._take(step, self._entries)

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
        logger.error("%d requests failed: %s", len(entries), error)
        for batch_id in batch_ids:
            try:
                await self._client.clear_cache(batch_id)
            except ShardError as clear_error:
                logger.error("The shard could not clear batch %d: %s", batch_id, clear_error)
        for entry in entries.values():
            entry.channel.fail(GenerationError(str(error)))
            self._queue.free(entry)
        entries.clear()

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
