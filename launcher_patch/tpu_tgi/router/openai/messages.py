"""The messages of a chat request."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from tpu_tgi.router.http.request_body import Items, RequestBody


class TextChunk(RequestBody):
    type: Literal["text"]
    text: str


class ImageUrl(RequestBody):
    url: str


class ImageChunk(RequestBody):
    """Reaches the prompt as Markdown, `![](url)`; no picture is looked at."""

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
