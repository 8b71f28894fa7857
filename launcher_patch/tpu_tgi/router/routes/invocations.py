"""POST /invocations: the address that SageMaker calls, for every kind of request."""

from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import ErrorBody, GenerateResponse, StreamResponse
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.body import not_deserialized, read_json, rejected
from tpu_tgi.router.http.operation import GENERATION_ERRORS, Operation
from tpu_tgi.router.openai.completion_request import CompletionRequest
from tpu_tgi.router.openai.responses import (
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChunk,
    StreamErrorEvent,
)
from tpu_tgi.router.requests.schemas import CompatGenerateRequest
from tpu_tgi.router.routes.chat_completions import answer_conversation
from tpu_tgi.router.routes.compat import answer_compat
from tpu_tgi.router.routes.completions import answer_completion

# In the order in which the stock router tries them.
KINDS: tuple[tuple[type[pydantic.BaseModel], Callable[[Request, Any], Awaitable[Response]]], ...] = (
    (CompatGenerateRequest, answer_compat),
    (ChatRequest, answer_conversation),
    (CompletionRequest, answer_completion),
)


async def invocations(request: Request) -> Response:
    """What `/`, /v1/chat/completions or /v1/completions answers, by the first of them that takes the body."""
    parsed = await read_json(request, context_of(request).settings.payload_limit)
    for schema, answer in KINDS:
        try:
            body = schema.model_validate(parsed)
        except pydantic.ValidationError as error:
            refusal = rejected(error)
            if refusal.status == 400:
                raise refusal from error
            continue
        return await answer(request, body)
    raise not_deserialized("data did not match any variant of untagged enum SagemakerRequest")


OPERATION = Operation(
    "POST",
    "/invocations",
    invocations,
    "As /, /v1/chat/completions or /v1/completions, by what the body is (SageMaker)",
    body=CompatGenerateRequest | ChatRequest | CompletionRequest,
    answer=list[GenerateResponse] | ChatCompletion | Completion,
    events=StreamResponse | ErrorBody | ChatChunk | CompletionChunk | Completion | StreamErrorEvent,
    errors=GENERATION_ERRORS,
    needs_key=True,
)
