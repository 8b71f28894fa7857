"""What clients hear while the model is loaded and its programs are compiled: 503, and how far that is."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

PROGRAMS = re.compile(r"Warm-up (\d+/\d+):")

RETRY_SECONDS = 5
HEAD_SECONDS = 5.0


@dataclass
class Progress:
    """How far the shard is. programs: compiled ones of all, like `3/19`; None before the first."""

    programs: str | None = None

    def notice(self, line: str) -> None:
        """Takes a line of the shard's log, which may be about something else."""
        if found := PROGRAMS.match(line):
            self.programs = found[1]

    def answer(self) -> bytes:
        """The whole response, to whatever was asked."""
        status = "loading the model" if self.programs is None else "warming up"
        body = json.dumps({"status": status, "programs": self.programs}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"retry-after: {RETRY_SECONDS}\r\n"
            "connection: close\r\n\r\n"
        )
        return head.encode() + body


@asynccontextmanager
async def answering_503(listener: socket.socket, progress: Progress) -> AsyncIterator[None]:
    """Answers on the bound socket `listener` until the block is left.

    The socket stays open: who connects between this and the service waits for the service.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
            writer.write(progress.answer())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, sock=listener.dup())
    try:
        yield
    finally:
        server.close()
