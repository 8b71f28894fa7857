"""GET /info: the model and the limits."""

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import InfoResponse
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.settings import ROUTER_NAME, ROUTER_VERSION


async def info(request: Request) -> Response:
    """Every key is always there; what a local directory cannot tell is null."""
    context = context_of(request)
    settings = context.settings
    return json_response(
        InfoResponse(
            model_id=settings.model_name,
            model_sha=None,
            model_pipeline_tag=None,
            max_concurrent_requests=context.limits.max_concurrent_requests,
            max_best_of=settings.max_best_of,
            max_stop_sequences=settings.max_stop_sequences,
            max_input_tokens=context.limits.max_input_tokens,
            max_total_tokens=context.limits.max_total_tokens,
            validation_workers=settings.validation_workers,
            max_client_batch_size=settings.max_client_batch_size,
            router=ROUTER_NAME,
            version=ROUTER_VERSION,
            sha=None,
            docker_label=f"tpu-tgi {version('tpu-tgi')}",
        )
    )


OPERATION = Operation("GET", "/info", info, "The model and the limits", answer=InfoResponse)
