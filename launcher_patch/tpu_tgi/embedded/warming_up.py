"""What clients hear while the model is loaded and its programs are compiled: 503, and how far that is."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser

from tpu_tgi.page.files import File, find

PROGRAMS = re.compile(r"Warm-up (\d+)/(\d+):")

RETRY_SECONDS = 5
HEAD_SECONDS = 5.0


@dataclass
class WarmUp:
    """How far the shard is.

    Attributes:
        done, total: programs that are compiled, and all of them; None before the first.
        first, begin: what was done when the first of these was heard of, and when, by `time.monotonic`.
    """

    done: int | None = None
    total: int | None = None
    first: int = 0
    begin: float = 0.0

    def notice(self, line: str) -> None:
        """Takes a line of the shard's log, which may be about something else."""
        if found := PROGRAMS.match(line):
            self.done, total = int(found[1]), int(found[2])
            if total != self.total:
                # Compiling and the first runs are counted one after the other.
                self.total, self.first, self.begin = total, self.done, time.monotonic()

    @property
    def status(self) -> str:
        return "loading the model" if self.done is None else "warming up"

    @property
    def seconds_left(self) -> float | None:
        """If the others take as long as those before them, which are the larger ones; None if too few are known."""
        if self.done is None or self.total is None or self.done == self.first:
            return None
        return (time.monotonic() - self.begin) / (self.done - self.first) * (self.total - self.done)

    def answer(self) -> bytes:
        """The whole response, to whatever was asked."""
        left = self.seconds_left
        said = {
            "status": self.status,
            "programs": None if self.done is None else f"{self.done}/{self.total}",
            "seconds_left": None if left is None else round(left, 1),
        }
        body = json.dumps(said).encode()
        headers = {"content-type": "application/json", "retry-after": str(RETRY_SECONDS)}
        return response("503 Service Unavailable", headers, body)


def response(status: str, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {**headers, "content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def wanted_file(head: bytes) -> File | None:
    """The file of the page that a request asks for; None if it asks for something else."""
    line, _, fields = head.partition(b"\r\n")
    method, path, *_ = [*line.decode("latin-1").split(" "), "", ""]
    accept = BytesHeaderParser().parsebytes(fields).get("accept", "")
    return find(path, accept) if method == "GET" else None


@asynccontextmanager
async def answering_503(listener: socket.socket, warm_up: WarmUp, *, page: bool) -> AsyncIterator[None]:
    """Answers on the bound socket `listener` until the block is left; with `page`, browsers get that, which shows the
    progress.

    The socket stays open: who connects between this and the service waits for the service.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
            file = wanted_file(head) if page else None
            writer.write(response("200 OK", file.headers, file.content) if file else warm_up.answer())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, sock=listener.dup())
    try:
        yield
    finally:
        server.close()
