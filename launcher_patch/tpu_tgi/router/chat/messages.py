"""The messages of a chat: as a request has them, and as a template sees them."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pydantic_core
from pydantic import AliasChoices, Field, model_validator

from tpu_tgi.router.http.request_body import Items, RequestBody


class TextChunk(RequestBody):
    type: Literal["text"]
    text: str


class ImageUrl(RequestBody):
    url: str


class ImageChunk(RequestBody):
    """Reaches the prompt as Markdown, `![](url)`, which is refused of a checkpoint that was made to see."""

    type: Literal["image_url"]
    image_url: ImageUrl


Chunk = Annotated[TextChunk | ImageChunk, Field(discriminator="type")]


class CalledFunction(RequestBody):
    """The function of an earlier tool call. Arguments may be a JSON value, or a string that holds one."""

    description: str | None = None
    name: str
    arguments: Any = Field(validation_alias=AliasChoices("arguments", "parameters"))


class EarlierToolCall(RequestBody):
    """A call that the assistant made before."""

    id: str
    type: str
    function: CalledFunction


class Message(RequestBody):
    """One message: text, chunks of text, or tool calls of the assistant; content goes before tool calls.

    Content that is null counts as empty, which the stock router refuses, and `tool_call_id` reaches the
    template, where the stock router drops it. `name` has no effect.
    """

    role: str
    content: str | Items[Chunk] | None = None
    tool_calls: Items[EarlierToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def says_something(self) -> "Message":
        if self.tool_calls is None and "content" not in self.model_fields_set:
            raise ValueError("a message needs `content` or `tool_calls`")
        return self


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
