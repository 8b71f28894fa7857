"""POST /: what older clients call; the answer is an array of one, or a stream."""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import ErrorBody, GenerateResponse, StreamResponse
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.disconnect import unless_client_leaves
from tpu_tgi.router.http.json_response import json_array_response
from tpu_tgi.router.http.operation import GENERATION_ERRORS, Operation
from tpu_tgi.router.requests.schemas import CompatGenerateRequest
from tpu_tgi.router.routes.generate import answer_request
from tpu_tgi.router.routes.generate_stream import stream_answer


async def compat_generate(request: Request) -> Response:
    body = await read_body(request, CompatGenerateRequest, context_of(request).settings.payload_limit)
    return await answer_compat(request, body)


async def answer_compat(request: Request, body: CompatGenerateRequest) -> Response:
    """As /generate or /generate_stream by `stream`; the prompt is part of the text unless that is declined.

    The stock router declines for models that the hub lists under another task than text generation; a
    local directory has no task.
    """
    context = context_of(request)
    if body.parameters.return_full_text is None:
        full_text = body.parameters.model_copy(update={"return_full_text": True})
        body = body.model_copy(update={"parameters": full_text})
    if body.stream:
        return stream_answer(context, body)
    answer, headers = await unless_client_leaves(request, answer_request(context, body))
    return json_array_response([answer], headers)


OPERATION = Operation(
    "POST",
    "/",
    compat_generate,
    "Generate text, streamed if `stream` is true",
    body=CompatGenerateRequest,
    answer=list[GenerateResponse],
    events=StreamResponse | ErrorBody,
    errors=GENERATION_ERRORS,
    needs_key=True,
)
