"""Requests that wait for room on the shard, in order of arrival."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from tpu_tgi.router.blocks import BlockAllocator
from tpu_tgi.router.channel import AnswerChannel
from tpu_tgi.router.generation import BatchedRequest, NewBatch, ValidRequest


@dataclass(eq=False)
class Entry:
    """One request from the moment it is queued until its last token, or until its client leaves.

    Attributes:
        queued, started: `time.perf_counter` when it entered the queue and when it was put into a batch.
        blocks: the cache blocks that it owns; empty while it waits.
    """

    request: ValidRequest
    channel: AnswerChannel
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Admission:
    """A new batch and the entries in it, by request id."""

    batch: NewBatch
    entries: dict[int, Entry]


class WaitingQueue:
    """First come, first served: a request that finds no room makes all behind it wait (the stock rule)."""

    def __init__(self, allocator: BlockAllocator, speculate: int, support_chunking: bool) -> None:
        self._allocator = allocator
        self._speculate = speculate
        self._support_chunking = support_chunking
        self._entries: deque[Entry] = deque()
        self._arrival = asyncio.Event()
        self._next_request_id = 0
        self._next_batch_id = 0

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._arrival.set()

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
            self._entries.popleft().channel.end()

    def next_batch(self, max_size: int | None, prefill_budget: int, token_budget: int) -> Admission | None:
        """As many waiting requests as there is room for, or None (protocol section 3.3).

        Args:
            max_size: most requests to take; None is no limit.
            prefill_budget: most prompt tokens to take; rounded up to whole blocks.
            token_budget: 0 means that the shard is full.
        """
        if max_size == 0 or prefill_budget <= 0 or token_budget <= 0:
            return None
        block_size = self._allocator.block_size
        budget = -(-prefill_budget // block_size) * block_size

        batched: list[BatchedRequest] = []
        entries: dict[int, Entry] = {}
        prefill_tokens = 0
        while self._entries and (max_size is None or len(batched) < max_size):
            entry = self._entries[0]
            if entry.channel.closed:
                self._entries.popleft()
                continue
            request = entry.request
            left = budget - prefill_tokens
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
            entry.started = time.perf_counter()
            entries[self._next_request_id] = entry
            batched.append(
                BatchedRequest(
                    id=self._next_request_id,
                    request=request,
                    blocks=entry.blocks,
                    slots=slots,
                    chunk_len=None if whole else left,
                )
            )
            self._next_request_id += 1
            prefill_tokens += min(request.input_length, left)
        if not batched:
            return None
        batch = NewBatch(id=self._next_batch_id, requests=tuple(batched), max_tokens=prefill_tokens)
        self._next_batch_id += 1
        return Admission(batch, entries)
