"""JSON answers: compact, not escaped to ASCII, `content-type: application/json` without a charset."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from starlette.responses import Response

from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.responses import ErrorBody


def json_response(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


def json_array_response(bodies: Sequence[BaseModel], headers: Mapping[str, str] | None = None) -> Response:
    text = ",".join(body.model_dump_json() for body in bodies)
    return Response(f"[{text}]", 200, headers, media_type="application/json")


def error_body(error: RequestError) -> ErrorBody:
    return ErrorBody(error=error.text, error_type=error.error_type)


def error_response(error: RequestError) -> Response:
    return json_response(error_body(error), error.status)
