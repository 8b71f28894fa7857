"""The messages of a request as a template sees them."""

from typing import NotRequired, TypedDict

import pydantic_core

from tpu_tgi.router.openai.messages import Chunk, EarlierToolCall, Message, TextChunk


class TemplateMessage(TypedDict):
    """`content` is always one string. `tool_call_id` is there only if the client gave one."""

    role: str
    content: str
    tool_call_id: NotRequired[str]


def template_messages(messages: list[Message], appended: str = "") -> list[TemplateMessage]:
    """`appended` goes to the end of the last message, unless that consists of tool calls."""
    shown = [template_message(message) for message in messages]
    if messages and not is_call(messages[-1]):
        shown[-1]["content"] += appended
    return shown


def template_message(message: Message) -> TemplateMessage:
    if is_call(message):
        shown = TemplateMessage(role=message.role, content=calls_text(message.tool_calls or []))
    else:
        shown = TemplateMessage(role=message.role, content=content_text(message.content))
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    return shown


def is_call(message: Message) -> bool:
    return message.content is None and message.tool_calls is not None


def content_text(content: str | list[Chunk] | None) -> str:
    """Chunks are joined without anything between them."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(
        chunk.text if isinstance(chunk, TextChunk) else f"![]({chunk.image_url.url})" for chunk in content
    )


def calls_text(calls: list[EarlierToolCall]) -> str:
    """Compact JSON, in which the arguments are the text of what the client sent."""
    return json_text(
        [
            {
                "id": call.id,
                "type": call.type,
                "function": {
                    "description": call.function.description,
                    "name": call.function.name,
                    "arguments": json_text(call.function.arguments),
                },
            }
            for call in calls
        ]
    )


def json_text(value: object) -> str:
    """Compact JSON, with numbers as the stock router writes them."""
    return pydantic_core.to_json(value).decode()
