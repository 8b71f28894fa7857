"""POST /chat_tokenize: the prompt that a conversation becomes, and its tokens."""

import pydantic_core
from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import ChatTokenizeResponse
from tpu_tgi.router.chat.prompt import chat_prompt
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.json_response import long_json_response
from tpu_tgi.router.http.operation import Operation


async def chat_tokenize(request: Request) -> Response:
    """The template writes special tokens itself. Guarded by the key, unlike in the stock router: it takes time."""
    context = context_of(request)
    chat = await read_body(request, ChatRequest, context.settings.payload_limit)
    context.metrics.count("tgi_request_count")
    with context.inference.permit():
        text = (await chat_prompt(chat, context.chat_template)).request.inputs
        tokens = await context.tokenization.tokens_json(text, add_special_tokens=False)
    return long_json_response(
        b'{"tokenize_response":', tokens, b',"templated_text":', pydantic_core.to_json(text), b"}"
    )


OPERATION = Operation(
    "POST",
    "/chat_tokenize",
    chat_tokenize,
    "The prompt that a conversation becomes, and its tokens",
    body=ChatRequest,
    answer=ChatTokenizeResponse,
    errors=(422, 429),
    needs_key=True,
)
