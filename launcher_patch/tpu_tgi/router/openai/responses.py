"""Answers of the OpenAI routes. Whether a field without a value is absent or null follows the stock router."""

import time
from typing import Literal

from pydantic import BaseModel, Field

from tpu_tgi.router.api.responses import Logprob, is_none
from tpu_tgi.router.settings import ROUTER_VERSION

SYSTEM_FINGERPRINT = f"{ROUTER_VERSION}-native"
"""Version and build; `native` is what a router says that runs outside of an image."""


def now() -> int:
    """Unix time in seconds."""
    return int(time.time())


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


class TopLogprob(BaseModel):
    token: str
    logprob: Logprob


class TokenLogprob(BaseModel):
    """One generated token, the end of the sequence included. `top_logprobs` is empty unless asked for."""

    token: str
    logprob: Logprob
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class FunctionCall(BaseModel):
    """A function that the model wants called. `arguments` is the text of a JSON object."""

    description: None = None
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AnswerMessage(BaseModel):
    """Either text or tool calls; the other one is absent."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(default=None, exclude_if=is_none)
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=is_none)


class ChatChoice(BaseModel):
    """finish_reason: `stop`, `length`, `stop_sequence` or `tool_calls`."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(BaseModel):
    """A whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    id: str = ""
    created: int = Field(default_factory=now)
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[ChatChoice]
    usage: Usage


class FunctionCallDelta(BaseModel):
    """The name comes with the first piece of the arguments, which is `{`."""

    name: str | None
    arguments: str


class ToolCallDelta(BaseModel):
    index: int = 0
    id: str
    type: Literal["function"] = "function"
    function: FunctionCallDelta


class Delta(BaseModel):
    """A piece of text, or of a tool call."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(default=None, exclude_if=is_none)
    tool_calls: list[ToolCallDelta] | None = Field(default=None, exclude_if=is_none)


class ChatChunkChoice(BaseModel):
    """finish_reason comes with the last chunk."""

    index: int = 0
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(BaseModel):
    """An event of a stream. With `usage`, it has no choices."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    id: str = ""
    created: int = Field(default_factory=now)
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChoice(BaseModel):
    """finish_reason: as in a chat; in streams `eos_token` stands for `stop`, and it is empty before the end."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: str


class Completion(BaseModel):
    """All texts, in the order of the prompts; `usage` is summed over them."""

    object: Literal["text_completion"] = "text_completion"
    id: str = ""
    created: int = Field(default_factory=now)
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(BaseModel):
    """A token of one of the texts. The last one of a text comes as a Completion, with its usage."""

    object: Literal["text_completion"] = "text_completion"
    id: str = ""
    created: int = Field(default_factory=now)
    choices: list[CompletionChoice]
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT


class StreamError(BaseModel):
    """http_status_code is always 422, whatever went wrong (the stock router's rule)."""

    message: str
    http_status_code: int = 422


class StreamErrorEvent(BaseModel):
    error: StreamError


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    """The one model that is served."""

    object: Literal["list"] = "list"
    data: list[Model]


FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop_sequence"}
"""What the shard's reasons are called here, except in streams of /v1/completions."""
