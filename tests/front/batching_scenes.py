"""Requests that come at known steps, and the calls that a router makes of them.

The calls are those of the stock router: tests/stock_router/test_call_sequences.py plays the same scenes with it.
"""

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from front.fake_shard import FakeShard
from front.running_front import wait_until

NOTICE_SECONDS = 0.3
"""A router shows nowhere that it has noticed the end of a connection."""

Call = tuple[str, Any]


@dataclass(frozen=True)
class Arrival:
    """A request for `tokens` tokens that is queued while the shard is at its n-th call.

    Attributes:
        leaves_at: the call at which its client hangs up; None stays until the end.
    """

    at_call: int
    tokens: int
    leaves_at: int | None = None


@dataclass(frozen=True)
class Scene:
    """Settings of the router, what happens, and the calls that follow."""

    ratio: float
    max_waiting_tokens: int
    arrivals: list[Arrival]
    calls: list[Call]
    max_batch_size: int | None = None
    shard: dict[str, Any] = field(default_factory=dict)


def play(scene: Scene, shard: FakeShard, url: str) -> list[Call]:
    """Sends the requests, waits until all are answered or have left, and returns the shard's calls."""
    before = len(shard.calls)
    events = [(arrival.at_call, False, index) for index, arrival in enumerate(scene.arrivals)]
    events += [
        (arrival.leaves_at, True, index)
        for index, arrival in enumerate(scene.arrivals)
        if arrival.leaves_at is not None
    ]
    with ExitStack() as connections, httpx.Client(base_url=url, timeout=20) as client:
        streams: dict[int, httpx.Response] = {}
        for at_call, leaves, index in sorted(events):
            shard.hold_at = before + max(1, at_call)
            wait_until(lambda at=at_call: len(shard.calls) >= before + at, 20)  # type: ignore[misc]
            if leaves:
                streams.pop(index).close()
                time.sleep(NOTICE_SECONDS)
                continue
            waiting = queue_size(client)
            body = {"inputs": "word", "parameters": {"max_new_tokens": scene.arrivals[index].tokens}}
            streams[index] = connections.enter_context(client.stream("POST", "/generate_stream", json=body))
            if at_call > 0:
                wait_until(lambda size=waiting + 1: queue_size(client) == size)  # type: ignore[misc]
        shard.hold_at = None
        for index, stream in streams.items():
            assert sum(1 for line in stream.iter_lines() if line) == scene.arrivals[index].tokens
    wait_until(lambda: shard.is_empty)
    return shard.calls[before:]


def queue_size(client: httpx.Client) -> int:
    """Requests that wait, as both routers tell it."""
    found = re.search(r"^tgi_queue_size (\d+)", client.get("/metrics").text, re.MULTILINE)
    return int(found[1]) if found else 0


def prefill(*requests: int) -> Call:
    return "Prefill", list(requests)


def decode(*batches: int) -> Call:
    return "Decode", list(batches)


def keep(batch: int, *requests: int) -> Call:
    return "FilterBatch", (batch, list(requests))


SCENES = {
    "a lone request": Scene(0.3, 20, [Arrival(0, 3)], [prefill(0), decode(0), decode(0)]),
    "up to three running requests keep nobody waiting": Scene(
        0.3,
        20,
        [Arrival(0, 5), Arrival(1, 2), Arrival(3, 2)],
        [
            *(prefill(0), prefill(1), decode(0, 1), keep(0, 0)),
            *(prefill(2), decode(0, 2), keep(0, 0), decode(0), decode(0)),
        ],
    ),
    "too few wait until enough steps have passed": Scene(
        1.0,
        5,
        [Arrival(0, 12), Arrival(1, 12), Arrival(3, 3)],
        [
            *(prefill(0), prefill(1), decode(0, 1), decode(0), decode(0), decode(0)),
            *(prefill(2), decode(0, 2), decode(0), keep(0, 0, 1)),
            *[decode(0)] * 5,
        ],
    ),
    "enough of them join at once": Scene(
        1.0,
        50,
        [Arrival(0, 9), Arrival(1, 8), Arrival(3, 2), Arrival(4, 2)],
        [
            *(prefill(0), prefill(1), decode(0, 1), decode(0)),
            *(prefill(2, 3), decode(0, 2), keep(0, 0, 1), *[decode(0)] * 4, keep(0, 0), decode(0)),
        ],
    ),
    "no more than the batch size": Scene(
        0.0,
        20,
        [Arrival(0, 6), Arrival(1, 3), Arrival(2, 2)],
        [
            *(prefill(0), prefill(1), decode(0, 1), decode(0), keep(0, 0)),
            *(prefill(2), decode(0, 2), keep(0, 0), decode(0), decode(0)),
        ],
        max_batch_size=2,
    ),
    "a client that waits and leaves is never seen, and its id is not given again": Scene(
        0.0,
        20,
        [Arrival(0, 6), Arrival(1, 3, leaves_at=2), Arrival(3, 2)],
        [prefill(0), *[decode(0)] * 5, prefill(2), decode(1)],
        shard={"batch_size": 1},
    ),
    "a client that leaves while it is served is filtered out": Scene(
        0.0,
        20,
        [Arrival(0, 7), Arrival(1, 30, leaves_at=4)],
        [prefill(0), prefill(1), decode(0, 1), decode(0), keep(0, 0), *[decode(0)] * 4],
    ),
    "with chunking everybody joins at once": Scene(
        1.0,
        20,
        [Arrival(0, 6), Arrival(1, 2), Arrival(3, 2)],
        [prefill(0), prefill(1), decode(0), keep(0, 0), prefill(2), decode(0), keep(0, 0), decode(0)],
        shard={"support_chunking": True},
    ),
}
