"""What a route module says of itself: how it is reached, what it takes, and what it answers.

The application, the check of the API key and the OpenAPI document are all made from these descriptions.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Awaitable[Response]]

GENERATION_ERRORS = (422, 424, 429, 500)
"""The statuses of every route that generates: refused, failed on the shard, overloaded, not finished."""


@dataclass(frozen=True)
class Operation:
    """One method of one path. GET also serves HEAD.

    Attributes:
        summary: one line for the documentation.
        body: the type of the JSON that a POST takes, as pydantic's TypeAdapter takes it; None if it takes none.
            What is not JSON, too large or of a wrong type is refused in plain text (400, 413, 415, 422), which need
            not be said here.
        answer: the type of the answer, as pydantic's TypeAdapter takes it; None is an empty answer.
        media_type: of that answer.
        events: the type of each server-sent event, where the answer is (or with `stream` may be) a stream.
        errors: the statuses of answers in the JSON error object.
        needs_key: whether `--api-key` guards it.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    body: Any = None
    answer: Any = None
    media_type: str = "application/json"
    events: Any = None
    errors: tuple[int, ...] = ()
    needs_key: bool = False
