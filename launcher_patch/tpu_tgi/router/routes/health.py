"""GET /health, /ping and /: can a request be served?"""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import ErrorBody
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import Operation


async def health(request: Request) -> Response:
    """An empty 200, or 503."""
    if await context_of(request).health.check():
        return Response()
    return json_response(ErrorBody(error="unhealthy", error_type="healthcheck"), 503)


OPERATIONS = [
    Operation("GET", path, health, "Whether a request can be served", errors=(503,))
    for path in ("/", "/health", "/ping")
]
