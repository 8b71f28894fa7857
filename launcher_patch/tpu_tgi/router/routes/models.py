"""GET /v1/models: the one model that is served."""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.openai.responses import Model, ModelList


async def models(request: Request) -> Response:
    model_id = context_of(request).settings.model_name
    return json_response(ModelList(data=[Model(id=model_id, owned_by=model_id)]))


OPERATION = Operation("GET", "/v1/models", models, "The model, as OpenAI's clients list it", answer=ModelList)
