"""One line in the log, and one id, for each request."""

import re
import time
import uuid

from loguru import logger
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tpu_tgi.page.files import PREFIX

HEADER = "x-request-id"

# What a client calls its request goes into log lines, so it has to be short and plain.
ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

# Probes, scrapes and the page come every few seconds and say nothing.
QUIET = ("/", "/health", "/ping", "/metrics")


class RequestLog:
    """Gives each request the id that its client sent, or a new one, and logs how it ended.

    The answer has the id as the header `x-request-id`. Probes that succeed are not logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        request_id = id_of(scope)
        status, first, length = 0, 0.0, 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, first, length
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            elif body := message.get("body"):
                first = first or time.perf_counter() - begin
                length += len(body)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if not (scope["method"] in ("GET", "HEAD") and is_quiet(scope["path"]) and status == 200):
                logger.log(
                    "WARNING" if status >= 429 or status == 0 else "INFO",
                    "{} {} {}: {}, {} bytes, first after {:.0f} ms, all after {:.0f} ms",
                    request_id,
                    scope["method"],
                    # Any path can be asked for; what is not printable is escaped.
                    repr(scope["path"][:100])[1:-1],
                    status or "not answered",
                    length,
                    first * 1000,
                    (time.perf_counter() - begin) * 1000,
                )


def is_quiet(path: str) -> bool:
    return path in QUIET or path.startswith(PREFIX)


def id_of(scope: Scope) -> str:
    """The client's id, if it can be logged as it is."""
    for name, value in scope["headers"]:
        if name == HEADER.encode() and ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return uuid.uuid4().hex
