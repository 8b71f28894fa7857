"""The page on a port of its own, in front of a router that has no page: everything else is passed on to that.

    python -m tpu_tgi.page.proxy --hostname 127.0.0.1 --port 8081 --router http://127.0.0.1:8080 --slots 4

Page and router have to be of the same origin for browsers, and the stock router serves no files.
"""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated

import httpx2
import typer
import uvicorn
from loguru import logger
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tpu_tgi.addresses import reserve
from tpu_tgi.child import end_with_parent
from tpu_tgi.logs import configure
from tpu_tgi.page.serving import WithPage

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

# They speak of one connection, and there are two (RFC 9110, 7.6.1). The lengths are those of the other connection too.
OF_ONE_CONNECTION = {
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

CONNECT_SECONDS = 5.0


def make_app(router: str, slots: int | None, *, needs_key: bool) -> Starlette:
    """The page, and everything else from the router at the address `router`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # An answer takes as long as it takes; there are as many connections as clients.
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=router, timeout=timeout, limits=limits) as client:
            app.state.client = client
            yield

    return Starlette(
        routes=[Route("/{path:path}", pass_on, methods=METHODS)],
        middleware=[Middleware(WithPage, slots=slots, needs_key=needs_key)],
        lifespan=lifespan,
    )


async def pass_on(request: Request) -> Response:
    """The router's answer, piece by piece as it comes; 503 while there is no router yet."""
    client: httpx2.AsyncClient = request.app.state.client
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    passed = client.build_request(
        request.method,
        httpx2.URL(path=request.url.path, query=request.url.query.encode()),
        headers=[(name, value) for name, value in end_to_end(request.headers.items())],
        content=request.stream() if has_body else None,
    )
    try:
        answer = await client.send(passed, stream=True)
    except httpx2.TransportError as error:
        logger.debug("{}: {}", client.base_url, error)
        return JSONResponse({"status": "starting", "programs": None}, 503, {"retry-after": "5"})
    response = StreamingResponse(pieces(answer), answer.status_code)
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in end_to_end(answer.headers.multi_items())
    ]
    return response


async def pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """As they come. The connection to the router is closed with the client's own, which ends the generation."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


def end_to_end(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in headers if name.lower() not in OF_ONE_CONNECTION)


def main(
    hostname: Annotated[str, typer.Option(help="Address to serve the page on.")],
    port: Annotated[int, typer.Option(help="Port of the page.")],
    router: Annotated[str, typer.Option(help="Address of the router, such as http://127.0.0.1:8080.")],
    slots: Annotated[int | None, typer.Option(help="Batch size, if it is known.")] = None,
    needs_key: Annotated[bool, typer.Option(help="Whether the router wants an API key.")] = False,
    ends_with: Annotated[int | None, typer.Option(help="Process with which this one ends.")] = None,
    json_output: Annotated[bool, typer.Option(help="Log as JSON.")] = False,
) -> None:
    """Serve the page in front of a router."""
    end_with_parent()
    if ends_with is not None and os.getppid() != ends_with:
        return
    configure("INFO", json_output)
    listener = reserve(hostname, port)
    config = uvicorn.Config(
        make_app(router, slots, needs_key=needs_key),
        log_config=None,
        access_log=False,
        http="h11",
        ws="none",
        server_header=False,
        # A stream that is still written when the service ends has lost its router anyway.
        timeout_graceful_shutdown=1,
    )
    logger.info("The page is at http://{}:{}, in front of {}", hostname, port, router)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    typer.run(main)
