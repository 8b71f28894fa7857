"""JSON answers: compact, not escaped to ASCII, `content-type: application/json` without a charset."""

from collections.abc import AsyncIterator, Mapping, Sequence

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from tpu_tgi.router.api.responses import ErrorBody
from tpu_tgi.router.errors import RequestError

PIECE_BYTES = 2**16


def json_response(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


def json_array_response(bodies: Sequence[BaseModel], headers: Mapping[str, str] | None = None) -> Response:
    text = ",".join(body.model_dump_json() for body in bodies)
    return Response(f"[{text}]", 200, headers, media_type="application/json")


def long_json_response(*parts: bytes | bytearray) -> Response:
    """The parts, one after the other. Nothing is copied whole, which takes time for answers of many megabytes."""

    async def pieces() -> AsyncIterator[bytes]:
        for part in parts:
            for start in range(0, len(part), PIECE_BYTES):
                yield bytes(part[start : start + PIECE_BYTES])

    length = str(sum(map(len, parts)))
    return StreamingResponse(pieces(), headers={"content-length": length}, media_type="application/json")


def error_body(error: RequestError) -> ErrorBody:
    return ErrorBody(error=error.text, error_type=error.error_type)


def error_response(error: RequestError) -> Response:
    return json_response(error_body(error), error.status)
