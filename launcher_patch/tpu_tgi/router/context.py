"""What the routes work with."""

from dataclasses import dataclass

from starlette.requests import Request

from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.metrics import Metrics
from tpu_tgi.router.model.tokenization import Tokenization
from tpu_tgi.router.scheduling.inference import Inference
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.router.shard.health import Health
from tpu_tgi.router.shard.limits import ServingLimits


@dataclass(frozen=True)
class RouterContext:
    """One per app. compute_type: value of the response header `x-compute-type`."""

    settings: RouterSettings
    limits: ServingLimits
    inference: Inference
    health: Health
    metrics: Metrics
    tokenization: Tokenization
    chat_template: ChatTemplate
    compute_type: str


def context_of(request: Request) -> RouterContext:
    context: RouterContext = request.app.state.context
    return context
