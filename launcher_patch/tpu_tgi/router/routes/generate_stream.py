"""POST /generate_stream: one server-sent event for each token."""

from collections.abc import AsyncGenerator
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.body import read_body
from tpu_tgi.router.channel import NewToken
from tpu_tgi.router.context import RouterContext, context_of
from tpu_tgi.router.errors import IncompleteStreamError, RequestError
from tpu_tgi.router.inference import Inference
from tpu_tgi.router.json_response import error_body
from tpu_tgi.router.operation import Operation
from tpu_tgi.router.responses import ErrorBody, StreamDetails, StreamResponse, TokenBody
from tpu_tgi.router.schemas import GenerateRequest
from tpu_tgi.router.sse import EventStream, event
from tpu_tgi.router.timing import stream_headers


async def generate_stream(request: Request) -> Response:
    context = context_of(request)
    return stream_answer(context, await read_body(request, GenerateRequest, context.settings.payload_limit))


def stream_answer(context: RouterContext, body: GenerateRequest) -> EventStream:
    """Always status 200: what goes wrong, a refusal included, is an event."""
    return EventStream(events(context.inference, body), stream_headers(body.inputs, context.compute_type))


async def events(inference: Inference, body: GenerateRequest) -> AsyncGenerator[bytes, None]:
    """Token events, the last one with the whole text; or an error event. Nothing marks the end."""
    try:
        async for token in tokens(inference, body):
            yield event(token)
    except RequestError as error:
        yield event(error_body(error))


async def tokens(inference: Inference, body: GenerateRequest) -> AsyncGenerator[StreamResponse, None]:
    """Raises RequestError."""
    async with inference.stream(body) as running:
        index = 0
        async for answer in running:
            if not isinstance(answer, NewToken):
                continue
            index += 1
            yield stream_response(index, answer, body, running.entry.request.input_length)
            if answer.finished is not None:
                return
    raise IncompleteStreamError


def stream_response(index: int, answer: NewToken, body: GenerateRequest, input_length: int) -> StreamResponse:
    """The event of one token; `index` counts from 1."""
    finished = answer.finished
    text = details = None
    if finished is not None:
        text = (body.inputs if body.parameters.return_full_text else "") + finished.text
        if body.parameters.details:
            details = StreamDetails(
                finish_reason=finished.finish_reason,
                generated_tokens=finished.generated_tokens,
                seed=finished.seed,
                input_length=input_length,
            )
    return StreamResponse(
        index=index,
        token=TokenBody(**asdict(answer.token)),
        top_tokens=[TokenBody(**asdict(token)) for token in answer.top_tokens],
        generated_text=text,
        details=details,
    )


OPERATION = Operation(
    "POST",
    "/generate_stream",
    generate_stream,
    "Generate text, one event for each token; what goes wrong is an event, too",
    body=GenerateRequest,
    events=StreamResponse | ErrorBody,
    needs_key=True,
)
