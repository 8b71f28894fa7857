"""Response bodies. Whether a field without a value is absent or null follows the stock router.

NaN and infinities become null; logprobs have the shortest digits that give back the same 32-bit float.
"""

import struct
from typing import Annotated, Any

import numpy
from pydantic import BaseModel, Field, PlainSerializer


def shortest_float32(value: float) -> float:
    """The 64-bit float whose shortest digits are the shortest ones of `value` as a 32-bit float.

    The shard sends 32-bit logprobs; -0.34 would otherwise be printed as -0.3400000035762787.
    """
    return float(str(numpy.float32(value)))


def to_float32(value: float) -> float:
    """Rounded to the nearest 32-bit float; infinite beyond the largest one, as in Rust."""
    try:
        rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


def is_none(value: Any) -> bool:
    return value is None


def is_empty(value: Any) -> bool:
    return not value


Logprob = Annotated[float, PlainSerializer(shortest_float32, return_type=float | None, when_used="json")]


class ErrorBody(BaseModel):
    error: str
    error_type: str


class PromptTokenBody(BaseModel):
    id: int
    text: str
    logprob: Logprob


class TokenBody(BaseModel):
    id: int
    text: str
    logprob: Logprob
    special: bool


class BestOfSequence(BaseModel):
    """A sequence that was generated for `best_of` and was not the best."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PromptTokenBody]
    tokens: list[TokenBody]
    top_tokens: list[list[TokenBody]] = Field(exclude_if=is_empty)


class Details(BaseModel):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PromptTokenBody]
    tokens: list[TokenBody]
    best_of_sequences: list[BestOfSequence] | None = Field(exclude_if=is_none)
    top_tokens: list[list[TokenBody]] = Field(exclude_if=is_empty)


class GenerateResponse(BaseModel):
    generated_text: str
    details: Details | None = Field(exclude_if=is_none)


class StreamDetails(BaseModel):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(BaseModel):
    """One token; `generated_text` and `details` come with the last one."""

    index: int
    token: TokenBody
    top_tokens: list[TokenBody] = Field(exclude_if=is_empty)
    generated_text: str | None
    details: StreamDetails | None


class InfoResponse(BaseModel):
    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None


class TextTokenBody(BaseModel):
    """A token of a text. `start` and `stop` are its place in bytes of UTF-8; both are 0 for an added token."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeResponse(BaseModel):
    tokenize_response: list[TextTokenBody]
    templated_text: str
