"""POST /v1/chat/completions: the next message of a conversation, whole or streamed."""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.timing import stream_headers
from tpu_tgi.router.chat.answer import chat_answer
from tpu_tgi.router.chat.prompt import ChatPrompt, chat_prompt, text_prompt
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.chat.stream import ChatStream
from tpu_tgi.router.chat.tool_call import parse_call
from tpu_tgi.router.chat.tools import NO_TOOL
from tpu_tgi.router.context import RouterContext, context_of
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.disconnect import unless_client_leaves
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import GENERATION_ERRORS, Operation
from tpu_tgi.router.http.sse import EventStream
from tpu_tgi.router.openai.responses import ChatChunk, ChatCompletion, StreamErrorEvent
from tpu_tgi.router.routes.generate import timed


async def chat_completions(request: Request) -> Response:
    chat = await read_body(request, ChatRequest, context_of(request).settings.payload_limit)
    return await answer_conversation(request, chat)


async def answer_conversation(request: Request, chat: ChatRequest) -> Response:
    """Errors of template and tools have their own status on a stream, too: they come before it."""
    context = context_of(request)
    context.metrics.count("tgi_request_count")
    prompt = await chat_prompt(chat, context.chat_template)
    model = context.settings.model_name if chat.model in (None, "tgi") else chat.model
    if chat.stream:
        stream = ChatStream(chat, model, context.inference, context.chat_template)
        headers = stream_headers(prompt.request.inputs, context.compute_type)
        return EventStream(stream.events(prompt), headers)
    answer, headers = await unless_client_leaves(request, answer_chat(context, chat, model, prompt))
    return json_response(answer, headers=headers)


async def answer_chat(
    context: RouterContext, chat: ChatRequest, model: str, prompt: ChatPrompt
) -> tuple[ChatCompletion, dict[str, str]]:
    """The answer and its timing headers, of the second attempt if the model wanted no tool. Raises RequestError."""
    result, _, headers = await timed(context, prompt.request)
    call = None
    if prompt.calls_tool:
        call = parse_call(result.generated.text)
        if call.name == NO_TOOL:
            prompt = await text_prompt(chat, context.chat_template)
            return await answer_chat(context, chat, model, prompt)
    return chat_answer(chat, model, result, call), headers


OPERATION = Operation(
    "POST",
    "/v1/chat/completions",
    chat_completions,
    "Answer a conversation, streamed if `stream` is true",
    body=ChatRequest,
    answer=ChatCompletion,
    events=ChatChunk | StreamErrorEvent,
    errors=GENERATION_ERRORS,
    needs_key=True,
)
