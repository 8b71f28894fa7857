"""Server-sent events, framed byte for byte as the stock router does (HTTP reference, section 2)."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Send

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b":\n\n"


def event(body: BaseModel) -> bytes:
    """One event: no name, no id, compact JSON on one line."""
    return b"data: " + body.model_dump_json().encode() + b"\n\n"


class EventStream(StreamingResponse):
    """Sends events as they come and a comment after 15 s of silence.

    The source is closed as soon as the client leaves, so that its request gives up its place on the shard.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._source = with_keep_alive(events, KEEP_ALIVE_SECONDS)
        # Given as a header, the type is not extended by a charset.
        fixed = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(self._source, headers={**fixed, **headers})

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._source):
            await super().stream_response(send)


async def with_keep_alive(events: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """The events, with a comment whenever none came for so many seconds. Closes `events` at its own end."""
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            while not (await asyncio.wait({upcoming}, timeout=seconds))[0]:
                yield KEEP_ALIVE
            piece = upcoming.result()
            if piece is None:
                return
            yield piece
            upcoming = asyncio.ensure_future(anext(events, None))
    finally:
        if upcoming.done():
            await events.aclose()
        else:
            # It runs inside of `events`, so its cancellation is what closes them.
            upcoming.cancel()
