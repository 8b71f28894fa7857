"""The router in front of a fake shard, in a thread of its own, on a free port."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from front.fake_shard import FakeShard
from tpu_tgi.addresses import reserve
from tpu_tgi.router.errors import RouterStartError, ShardProtocolError
from tpu_tgi.router.model.texts import load_texts
from tpu_tgi.router.server import Router
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.router.tracing import Tracing

START_SECONDS = 15.0

CHAT = "/v1/chat/completions"


@dataclass
class RunningFront:
    """What a test talks to."""

    shard: FakeShard
    port: int
    client: httpx.Client
    loop: asyncio.AbstractEventLoop
    router: Router

    def generate(self, inputs: str, **parameters: Any) -> httpx.Response:
        return self.client.post("/generate", json={"inputs": inputs, "parameters": parameters})

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        """Asks one question, greedily."""
        messages = [{"role": "user", "content": text}]
        return self.client.post(CHAT, json={"messages": messages, "temperature": 0, **fields})

    def chat_chunks(self, text: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a streamed chat, which must end as OpenAI's streams do."""
        response = self.chat(text, stream=True, **fields)
        assert response.headers["content-type"] == "text/event-stream"
        *events, end, nothing = response.text.split("\n\n")
        assert (end, nothing) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def in_loop(self, work: Any) -> Any:
        """Runs a coroutine where router and shard live."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=10)


@contextmanager
def running_front(
    shard: FakeShard, settings: RouterSettings, tracing: Tracing | None = None
) -> Iterator[RunningFront]:
    """Fails at the end if the shard had anything to complain about, or if the router left something on it."""
    listener = reserve("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    started: list[tuple[asyncio.AbstractEventLoop, Router]] = []
    failures: list[BaseException] = []

    texts = load_texts(Path(settings.model_id), settings.tokenizer_config_path)

    async def serve() -> None:
        await shard.start()
        try:
            router = await Router.start(settings, shard.socket_path, texts, tracing)
            started.append((asyncio.get_running_loop(), router))
            await router.serve(listener)
        finally:
            await shard.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except (RouterStartError, ShardProtocolError) as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="front")
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        wait_until(lambda: bool(failures) or (bool(started) and answers(client)), START_SECONDS)
        if failures:
            thread.join()
            raise failures[0]
        loop, router = started[0]
        front = RunningFront(shard, port, client, loop, router)
        try:
            yield front
        finally:
            client.close()
            loop.call_soon_threadsafe(router.stop, 5.0)
            thread.join()
    assert shard.violations == []
    assert not failures


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/info").status_code == 200
    except httpx.ConnectError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("what the test waits for did not happen")
        time.sleep(0.01)
