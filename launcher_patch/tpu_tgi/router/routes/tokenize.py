"""POST /tokenize: the tokens of a prompt."""

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import TextTokenBody
from tpu_tgi.router.context import context_of
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.json_response import long_json_response
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.requests.schemas import GenerateRequest


async def tokenize(request: Request) -> Response:
    """Of the whole prompt, with the special tokens that the model would see; `parameters` have no effect."""
    context = context_of(request)
    body = await read_body(request, GenerateRequest, context.settings.payload_limit)
    with context.inference.permit():
        tokens = await context.tokenization.tokens_json(body.inputs, add_special_tokens=True)
    return long_json_response(tokens)


OPERATION = Operation(
    "POST",
    "/tokenize",
    tokenize,
    "The tokens of a prompt",
    body=GenerateRequest,
    answer=list[TextTokenBody],
    errors=(429,),
    needs_key=True,
)
