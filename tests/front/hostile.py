"""A client that does what it can to hold others up: large bodies of all kinds, rubbish, floods, and hanging up."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any

import httpx

from front.running_front import CHAT

LIMIT = 2_000_000

SENDERS = 2
"""Connections of the hostile client."""


def filled(item: str, before: str, after: str) -> bytes:
    """A body of nearly 2 MB: `item` again and again, with commas, between two texts."""
    times = (LIMIT - len(before) - len(after)) // (len(item) + 1)
    return (before + ",".join([item] * times) + after).encode()


def text_of(words: str) -> str:
    return words * ((LIMIT - 200) // len(words.encode()))


MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "a"}]

HOSTILE = [
    ("/generate", filled("1", '{"inputs":"a","parameters":{"stop":[', "]}}"), 422),
    (
        "/generate",
        filled("{}", '{"inputs":"a","parameters":{"grammar":{"type":"json","value":[', "]}}}"),
        422,
    ),
    ("/generate", json.dumps({"inputs": text_of("a ")}).encode(), 422),
    ("/generate_stream", filled("{}", '{"inputs":"a","parameters":{"stop":[', "]}}"), 422),
    ("/", filled("[]", '{"inputs":[', "]}"), 422),
    (CHAT, filled("1", '{"messages":[', "]}"), 422),
    (CHAT, filled('{"role":1}', '{"messages":[', "]}"), 422),
    (CHAT, filled("1", '{"messages":[{"role":"user","content":[', "]}]}"), 422),
    (CHAT, json.dumps({"messages": [{"role": "user", "content": text_of("a ")}]}).encode(), 422),
    ("/v1/completions", filled("1", '{"prompt":[', "]}"), 422),
    ("/v1/completions", json.dumps({"prompt": text_of("a ")}).encode(), 422),
    ("/tokenize", json.dumps({"inputs": text_of("a ")}).encode(), 200),
    ("/tokenize", json.dumps({"inputs": text_of("é ")}, ensure_ascii=False).encode(), 200),
    ("/chat_tokenize", filled("1", '{"messages":[', "]}"), 422),
    ("/chat_tokenize", json.dumps({"messages": [{"role": "user", "content": text_of("a ")}]}).encode(), 200),
    ("/generate", b"[" * LIMIT, 422),
]

REFUSED = [(path, body) for path, body, status in HOSTILE if status == 422 and path != "/generate_stream"]
"""What takes the router no more than reading. A stream would answer 200 and then say why not."""

RUBBISH = [
    ("/generate", b"{"),
    ("/generate", b""),
    ("/generate", b"\xff\xfe"),
    ("/generate", json.dumps({"inputs": ""}).encode()),
    ("/generate", json.dumps({"inputs": "a", "parameters": {"temperature": -1}}).encode()),
    ("/generate", json.dumps({"inputs": "a", "parameters": {"best_of": 9}}).encode()),
    (CHAT, json.dumps({"messages": []}).encode() * 2),
    ("/nowhere", b"{}"),
]


@asynccontextmanager
async def hostile_client(url: str) -> AsyncIterator[Counter[int | None]]:
    """Attacks a service while the block runs. Yields its statuses, counted; None: it did not wait for the answer."""
    statuses: Counter[int | None] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=50) as client:
        senders = [asyncio.create_task(attack(client, statuses, first)) for first in range(SENDERS)]
        try:
            yield statuses
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)


@contextmanager
def hostile_beside(url: str) -> Iterator[Counter[int | None]]:
    """The same, in a thread of its own, until the block is left or the service is gone."""
    statuses: Counter[int | None] = Counter()
    done = threading.Event()

    async def run() -> None:
        async with hostile_client(url) as counted:
            while not done.is_set():
                await asyncio.sleep(0.02)
        statuses.update(counted)

    thread = threading.Thread(target=asyncio.run, args=[run()], name="hostile")
    thread.start()
    try:
        yield statuses
    finally:
        done.set()
        thread.join()


async def attack(client: httpx.AsyncClient, statuses: Counter[int | None], first: int) -> None:
    """Until it is cancelled: a large body, a flood of refusals, and a large body that is cut off."""
    headers = {"content-type": "application/json"}
    for turn in count(first):
        path, body = REFUSED[turn % len(REFUSED)]
        statuses[(await client.post(path, content=body, headers=headers)).status_code] += 1
        for path, rubbish in RUBBISH * 5:
            statuses[(await client.post(path, content=rubbish, headers=headers)).status_code] += 1
        with suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(0.01):
                await client.post(path, content=in_pieces(body), headers=headers)
        statuses[None] += 1


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """So slowly that the client is gone before the end."""
    for begin in range(0, len(body), len(body) // 50):
        yield body[begin : begin + len(body) // 50]
        await asyncio.sleep(0.002)
