"""Requests that wait for room on the shard, in order of arrival."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from opentelemetry.context import Context, get_current

from tpu_tgi.router.metrics import Metrics
from tpu_tgi.router.scheduling.blocks import BlockAllocator
from tpu_tgi.router.scheduling.channel import AnswerChannel
from tpu_tgi.router.shard.generation import BatchedRequest, NewBatch, ValidRequest


@dataclass(eq=False)
class Entry:
    """One request from the moment it is queued until its last token, or until its client leaves.

    Attributes:
        queued, started: `time.perf_counter` when it entered the queue and when it was put into a batch.
        blocks: the cache blocks that it owns; empty while it waits.
        trace: the span that was current when it came.
    """

    request: ValidRequest
    channel: AnswerChannel
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    blocks: tuple[int, ...] = ()
    trace: Context = field(default_factory=get_current)


@dataclass(frozen=True)
class Admission:
    """A new batch and the entries in it, by request id."""

    batch: NewBatch
    entries: dict[int, Entry]


class WaitingQueue:
    """First come, first served: a request that finds no room makes all behind it wait (the stock rule)."""

    def __init__(
        self, allocator: BlockAllocator, speculate: int, support_chunking: bool, metrics: Metrics
    ) -> None:
        self._metrics = metrics
        self._allocator = allocator
        self._speculate = speculate
        self._support_chunking = support_chunking
        # With the id under which the shard will know it: of each arrival, served or not (the stock rule).
        self._entries: deque[tuple[int, Entry]] = deque()
        self._arrival = asyncio.Event()
        self._next_request_id = 0
        self._next_batch_id = 0

    def append(self, entry: Entry) -> None:
        self._entries.append((self._next_request_id, entry))
        entry.channel.on_close = partial(self._leave, entry)
        self._next_request_id += 1
        self._metrics.set("tgi_queue_size", len(self._entries))
        self._arrival.set()

    def _leave(self, entry: Entry) -> None:
        """The client of an entry is gone; if it still waits here, it waits no longer."""
        for place, (_, waiting) in enumerate(self._entries):
            if waiting is entry:
                del self._entries[place]
                self._metrics.failed("dropped")
                self._metrics.set("tgi_queue_size", len(self._entries))
                return

    async def wait_for_arrival(self) -> None:
        """Returns when something was appended since the last return."""
        await self._arrival.wait()
        self._arrival.clear()

    def free(self, entry: Entry) -> None:
        """Takes back the blocks of an entry that the shard need not serve any more."""
        self._allocator.free(entry.blocks)
        entry.blocks = ()

    def end_all(self) -> None:
        """Nobody will serve the waiting requests: their answers end before they began."""
        while self._entries:
            self._entries.popleft()[1].channel.end()

    def next_batch(
        self, min_size: int | None, max_size: int | None, prefill_budget: int, token_budget: int
    ) -> Admission | None:
        """As many waiting requests as there is room for, or None (protocol section 3.3).

        Args:
            min_size: fewest requests to take; None and 0 ask for no more than one.
            max_size: most requests to take; None is no limit.
            prefill_budget: most prompt tokens to take; rounded up to whole blocks.
            token_budget: 0 means that the shard is full.
        """
        if prefill_budget <= 0 or token_budget <= 0:
            return None
        chosen: list[tuple[Entry, BatchedRequest]] = []
        if max_size != 0 and len(self._entries) >= (min_size or 0):
            chosen = self._choose(max_size, prefill_budget)
        if len(chosen) < (min_size or 0):
            self._put_back(chosen)
            chosen = []
        self._metrics.set("tgi_queue_size", len(self._entries))
        if not chosen:
            return None
        now = time.perf_counter()
        for entry, _ in chosen:
            entry.started = now
        requests = tuple(batched for _, batched in chosen)
        prefill_tokens = sum(batched.chunk_len or batched.request.input_length for batched in requests)
        batch = NewBatch(id=self._next_batch_id, requests=requests, max_tokens=prefill_tokens)
        self._next_batch_id += 1
        self._metrics.observe("tgi_batch_next_size", len(requests))
        return Admission(batch, {batched.id: entry for entry, batched in chosen})

    def _choose(self, max_size: int | None, prefill_budget: int) -> list[tuple[Entry, BatchedRequest]]:
        """Takes requests out of the queue until one does not fit, and gives them their blocks."""
        block_size = self._allocator.block_size
        left = -(-prefill_budget // block_size) * block_size
        chosen: list[tuple[Entry, BatchedRequest]] = []
        while self._entries and (max_size is None or len(chosen) < max_size):
            request_id, entry = self._entries[0]
            if entry.channel.closed:
                self._entries.popleft()
                self._metrics.failed("dropped")
                continue
            request = entry.request
            whole = request.input_length <= left
            if left <= 0 or not (whole or self._support_chunking):
                break
            room = self._allocator.allocate(
                request.input_length + request.max_new_tokens + self._speculate - 1
            )
            if room is None:
                break
            self._entries.popleft()
            entry.blocks, slots = room
            batched = BatchedRequest(
                id=request_id,
                request=request,
                blocks=entry.blocks,
                slots=slots,
                chunk_len=None if whole else left,
            )
            chosen.append((entry, batched))
            left -= min(request.input_length, left)
        return chosen

    def _put_back(self, chosen: list[tuple[Entry, BatchedRequest]]) -> None:
        """Undoes `_choose`: requests and blocks are in the order in which they were."""
        for entry, batched in reversed(chosen):
            self.free(entry)
            self._entries.appendleft((batched.id, entry))
