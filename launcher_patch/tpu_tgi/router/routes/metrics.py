"""GET /metrics: for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.operation import Operation


async def metrics(request: Request) -> Response:
    return Response(context_of(request).metrics.text(), media_type="text/plain")


OPERATION = Operation("GET", "/metrics", metrics, "Prometheus metrics", answer=str, media_type="text/plain")
