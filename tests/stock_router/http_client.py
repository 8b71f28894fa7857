"""What a client sends to the router, and reads from it."""

import json
import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

Body = dict[str, Any]

ANSWER_SECONDS = 240.0
"""A queue of requests on a busy machine."""


class HttpClient:
    """Talks to one router."""

    def __init__(self, port: int) -> None:
        self.port = port
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_SECONDS, limits=limits, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def is_listening(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def is_serving(self) -> bool:
        """The embedded router listens before that, and answers 503."""
        return self.is_listening() and self._client.get("/info").status_code == 200

    def health(self) -> int:
        return self._client.get("/health").status_code

    def info(self) -> Body:
        body: Body = self._client.get("/info").raise_for_status().json()
        return body

    def metric(self, name: str) -> float:
        """The value of a gauge or counter, summed over its labels; 0 if it was never set."""
        text = self._client.get("/metrics").raise_for_status().text
        values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def post(self, route: str, body: Body) -> httpx.Response:
        return self._client.post(route, json=body)

    def generate(self, inputs: str, **parameters: Any) -> Body:
        """The answer of /generate; raises httpx.HTTPStatusError unless it is 200."""
        response = self.post("/generate", {"inputs": inputs, "parameters": parameters})
        body: Body = response.raise_for_status().json()
        return body

    def generate_all(self, requests: Sequence[tuple[str, Body]]) -> list[Body]:
        """The answers to all requests, sent at once."""
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda request: self.generate(request[0], **request[1]), requests))

    @contextmanager
    def opened(self, route: str, body: Body) -> Iterator[Iterator[str]]:
        """The data of the events of a stream, as they come; leaving the context closes the connection."""
        with self._client.stream("POST", route, json=body) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield (line.removeprefix("data:").strip() for line in response.iter_lines() if line)

    def stream(self, inputs: str, **parameters: Any) -> list[Body]:
        """All events of /generate_stream."""
        with self.opened("/generate_stream", {"inputs": inputs, "parameters": parameters}) as events:
            return [json.loads(event) for event in events]
