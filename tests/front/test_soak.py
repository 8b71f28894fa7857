"""Real processes under load: `tpu-tgi` and the shard as it is, in front of a model that spells.

500 requests from 64 clients, of whom many leave, on a batch of 4, the last 200 beside a hostile client; then SIGTERM
while answers run.
"""

import asyncio
import json
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from front.hostile import hostile_client
from front.launched import Launched, launched
from front.running_front import wait_until
from wire.shard_process import spelling_checkpoint

REQUESTS = 500
CLIENTS = 64
REFUSALS = {400, 404, 415, 422, None}
"""What the hostile client may be answered; None: it hung up."""

GROWTH_BYTES = 4 * 2**20
"""What each process may still take after the first 150 requests, for the 150 that follow. Seen: 0.2 MB."""

HOSTILE_BYTES = 500 * 2**20
"""What a hostile client may make a process hold: bodies of 2 MB, read as JSON, until they are collected. Seen: 100 to
330 MB, by the moment."""


@dataclass(frozen=True)
class Question:
    """A request with a seed and a text of its own, so that its answer can be told from all others.

    Attributes:
        leaves_after: seconds until its client hangs up; None stays.
    """

    seed: int
    letter: str
    tokens: int
    streams: bool
    leaves_after: float | None

    @property
    def body(self) -> dict[str, Any]:
        parameters = {"max_new_tokens": self.tokens, "seed": self.seed, "do_sample": True, "details": True}
        return {"inputs": f"FOREVER{self.letter}", "parameters": parameters}

    @property
    def text(self) -> str:
        first = ord(self.letter) - ord("a") + 1
        return "".join(chr(ord("a") + (first + step) % 26) for step in range(self.tokens))


def questions() -> list[Question]:
    dice = random.Random(20)
    return [
        Question(
            seed=1000 + number,
            letter=dice.choice("abcdefghijklmnopqrstuvwxyz"),
            tokens=dice.randint(1, 30),
            streams=dice.random() < 0.5,
            leaves_after=dice.uniform(0, 1.0) if dice.random() < 0.3 else None,
        )
        for number in range(REQUESTS)
    ]


async def ask(client: httpx.AsyncClient, question: Question) -> bool:
    """Whether it was answered; False if the client left first. Fails on a wrong answer."""
    try:
        async with asyncio.timeout(question.leaves_after):
            if question.streams:
                await check_stream(client, question)
            else:
                await check_answer(client, question)
    except TimeoutError:
        return False
    return True


async def check_answer(client: httpx.AsyncClient, question: Question) -> None:
    response = await client.post("/generate", json=question.body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["generated_text"] == question.text
    assert answer["details"]["seed"] == question.seed
    assert answer["details"]["generated_tokens"] == len(answer["details"]["tokens"]) == question.tokens


async def check_stream(client: httpx.AsyncClient, question: Question) -> None:
    async with client.stream("POST", "/generate_stream", json=question.body) as response:
        events = [json.loads(line.removeprefix("data: ")) async for line in response.aiter_lines() if line]
    assert [event["index"] for event in events] == list(range(1, question.tokens + 1)), events[-1]
    assert "".join(event["token"]["text"] for event in events) == question.text
    assert [event["generated_text"] for event in events] == [None] * (question.tokens - 1) + [question.text]
    assert events[-1]["details"]["seed"] == question.seed


async def ask_all(url: str, asked: list[Question]) -> list[bool]:
    """Whether each was answered, with CLIENTS at once."""
    remaining = iter(list(enumerate(asked)))
    answered = [False] * len(asked)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=50, limits=limits) as client:

        async def one_client() -> None:
            for index, question in remaining:
                answered[index] = await ask(client, question)

        await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return answered


async def ask_all_beside_a_hostile_client(url: str, asked: list[Question]) -> list[bool]:
    async with hostile_client(url) as statuses:
        answered = await ask_all(url, asked)
    assert statuses
    assert set(statuses) <= REFUSALS
    return answered


def resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def metrics(running: Launched) -> dict[str, float]:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.mark.timeout(120)
def test_nothing_is_lost_under_load_and_sigterm_drains(tmp_path: Path) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    options = ["--max-batch-size", "4", "--max-total-tokens", "64"]
    environment = {"STEP_SECONDS": "0.002"}
    with launched(
        tmp_path, str(model), *options, environment=environment, server="wire.fake_shard"
    ) as running:
        running.wait_until_ready()
        asked = questions()
        answered = asyncio.run(ask_all(running.url, asked[:150]))
        processes = [running.process.pid, running.child_pid]
        memory = [resident_bytes(pid) for pid in processes]
        answered += asyncio.run(ask_all(running.url, asked[150:300]))
        for pid, before in zip(processes, memory, strict=True):
            assert resident_bytes(pid) - before < GROWTH_BYTES
        answered += asyncio.run(ask_all_beside_a_hostile_client(running.url, asked[300:]))
        for pid, before in zip(processes, memory, strict=True):
            assert resident_bytes(pid) - before < HOSTILE_BYTES

        assert all(done for question, done in zip(asked, answered, strict=True) if not question.leaves_after)
        assert not all(answered), "nobody left, and the test did not test that"
        wait_until(lambda: metrics(running)["tgi_batch_current_size"] == 0)
        counted = metrics(running)
        assert counted["tgi_queue_size"] == 0
        # A client may leave before its request was read, or after its answer was complete.
        assert sum(answered) <= counted["tgi_request_success"] <= REQUESTS
        # Whoever was queued was either answered or left.
        left = counted.get('tgi_request_failure{err="dropped"}', 0)
        assert counted["tgi_request_success"] + left == counted["tgi_request_max_new_tokens_count"]
        assert {name for name in counted if "failure" in name} == {
            'tgi_request_failure{err="dropped"}',
            'tgi_request_failure{err="validation"}',
        }

        with ThreadPoolExecutor(6) as clients:
            last = [Question(n, "c", 50, streams=n % 2 == 0, leaves_after=None) for n in range(6)]
            runs = [clients.submit(asyncio.run, ask_all(running.url, [question])) for question in last]
            wait_until(lambda: metrics(running)["tgi_batch_current_size"] == 4)
            running.signal(signal.SIGTERM)
            wait_until(lambda: is_refused(running))
            assert [run.result() for run in runs] == [[True]] * 6
        assert running.exit_code() == 0


def is_refused(running: Launched) -> bool:
    try:
        httpx.get(f"{running.url}/info", timeout=1)
    except httpx.ConnectError:
        return True
    return False
