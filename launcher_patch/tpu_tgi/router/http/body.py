"""Reads request bodies, and refuses them as the stock router does (HTTP reference, section 7.3)."""

import asyncio
import re
from typing import Any, TypeVar

import pydantic
import pydantic_core
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Body = TypeVar("Body", bound=pydantic.BaseModel)

# Objects and arrays in one body. While they are made no other request is served: so many take 6 ms.
MOST_CONTAINERS = 100_000

# A string of JSON, in which brackets mean nothing.
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

# A client that is still sending would miss an early answer: this many times the limit is read and dropped.
DRAINED_LIMITS = 8


class RejectedBodyError(Exception):
    """The body is refused before anybody looks at what it asks for: plain text, not the JSON error object."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def reject(_: Request, error: Exception) -> Response:
    """Exception handler for RejectedBodyError."""
    if not isinstance(error, RejectedBodyError):
        raise error
    return PlainTextResponse(error.text, status_code=error.status)


async def read_body(request: Request, schema: type[Body], payload_limit: int) -> Body:
    """The validated body.

    Raises RejectedBodyError as `read_json` does, and 422 for a missing field or a wrong type.
    """
    parsed = await read_json(request, payload_limit)
    try:
        return schema.model_validate(parsed)
    except pydantic.ValidationError as error:
        raise rejected(error) from error


def rejected(error: pydantic.ValidationError) -> RejectedBodyError:
    """What the first fault of a body means."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "finite_number":
        # JSON knows no infinity: 1e400 is a number that cannot be read.
        return RejectedBodyError(400, f"Failed to parse the request body as JSON: {described(first)}")
    return not_deserialized(described(first))


def not_deserialized(reason: str) -> RejectedBodyError:
    return RejectedBodyError(422, f"Failed to deserialize the JSON body into the target type: {reason}")


async def read_json(request: Request, payload_limit: int) -> Any:
    """The body as Python's own types.

    Raises RejectedBodyError: 415 for another content type, 413 for more than `payload_limit` bytes, 400 for
    what is not JSON, 422 for too many objects and arrays.
    """
    if not is_json(request.headers.get("content-type", "")):
        raise RejectedBodyError(415, "Expected request with `Content-Type: application/json`")
    raw = await read_limited(request, payload_limit)
    if containers(raw) > MOST_CONTAINERS and await asyncio.to_thread(exact_containers, raw) > MOST_CONTAINERS:
        raise RejectedBodyError(
            422,
            f"The JSON body has more than {MOST_CONTAINERS} objects and arrays, which is the most allowed",
        )
    try:
        return pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RejectedBodyError(400, f"Failed to parse the request body as JSON: {error}") from error


def containers(raw: bytes) -> int:
    """At least as many objects and arrays as the JSON has; counts brackets in strings, too."""
    return raw.count(b"{") + raw.count(b"[")


def exact_containers(raw: bytes) -> int:
    """The objects and arrays, without what strings hold. Takes a while; never holds others up."""
    found, begin = 0, 0
    for string in STRING.finditer(raw):
        found += raw.count(b"{", begin, string.start()) + raw.count(b"[", begin, string.start())
        begin = string.end()
    return found + raw.count(b"{", begin) + raw.count(b"[", begin)


def is_json(content_type: str) -> bool:
    """True for `application/json` and `application/*+json`, with or without parameters."""
    media_type = content_type.split(";")[0].strip().lower()
    kind, _, subtype = media_type.partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


async def read_limited(request: Request, payload_limit: int) -> bytes:
    """Raises RejectedBodyError for a body that is too long."""
    pieces: list[bytes] = []
    length = 0
    async for piece in request.stream():
        length += len(piece)
        if length > payload_limit * DRAINED_LIMITS:
            break
        if length <= payload_limit:
            pieces.append(piece)
    if length > payload_limit:
        raise RejectedBodyError(413, "Failed to buffer the request body: length limit exceeded")
    return b"".join(pieces)


def described(error: pydantic_core.ErrorDetails) -> str:
    """Place and text of an error, like `parameters.seed: Input should be a valid integer`."""
    path = ".".join(str(part) for part in error["loc"])
    text = error["msg"].removeprefix("Value error, ")
    return f"{path}: {text}" if path else text
