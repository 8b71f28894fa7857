"""POST /generate_stream: one server-sent event for each token."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import ErrorBody, StreamResponse
from tpu_tgi.router.api.timing import stream_headers
from tpu_tgi.router.api.token_stream import token_stream
from tpu_tgi.router.context import RouterContext, context_of
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.json_response import error_body
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.http.sse import EventStream, event
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.scheduling.inference import Inference


async def generate_stream(request: Request) -> Response:
    context = context_of(request)
    return stream_answer(context, await read_body(request, GenerateRequest, context.settings.payload_limit))


def stream_answer(context: RouterContext, body: GenerateRequest) -> EventStream:
    """Always status 200: what goes wrong, a refusal included, is an event."""
    return EventStream(events(context.inference, body), stream_headers(body.inputs, context.compute_type))


async def events(inference: Inference, body: GenerateRequest) -> AsyncGenerator[bytes, None]:
    """Token events, the last one with the whole text; or an error event. Nothing marks the end."""
    try:
        async with aclosing(token_stream(inference, body)) as tokens:
            async for token in tokens:
                yield event(token)
    except RequestError as error:
        yield event(error_body(error))


OPERATION = Operation(
    "POST",
    "/generate_stream",
    generate_stream,
    "Generate text, one event for each token; what goes wrong is an event, too",
    body=GenerateRequest,
    events=StreamResponse | ErrorBody,
    needs_key=True,
)
