"""POST /chat_tokenize: the prompt that a conversation becomes, and its tokens."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.body import read_body
from tpu_tgi.router.chat.prompt import chat_prompt
from tpu_tgi.router.context import context_of
from tpu_tgi.router.json_response import json_response
from tpu_tgi.router.openai.chat_request import ChatRequest
from tpu_tgi.router.operation import Operation
from tpu_tgi.router.responses import ChatTokenizeResponse, TextTokenBody


async def chat_tokenize(request: Request) -> Response:
    """The template writes special tokens itself."""
    context = context_of(request)
    chat = await read_body(request, ChatRequest, context.settings.payload_limit)
    context.metrics.count("tgi_request_count")
    text = (await chat_prompt(chat, context.chat_template)).request.inputs
    tokens = await context.tokenization.split(text, add_special_tokens=False)
    return json_response(
        ChatTokenizeResponse(
            tokenize_response=[TextTokenBody(**asdict(token)) for token in tokens], templated_text=text
        )
    )


OPERATION = Operation(
    "POST",
    "/chat_tokenize",
    chat_tokenize,
    "The prompt that a conversation becomes, and its tokens",
    body=ChatRequest,
    answer=ChatTokenizeResponse,
    errors=(422,),
)
