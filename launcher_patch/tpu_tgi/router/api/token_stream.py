"""The tokens of one request as they come, in the form of /generate_stream."""

from collections.abc import AsyncGenerator
from dataclasses import asdict

from tpu_tgi.router.api.responses import StreamDetails, StreamResponse, TokenBody
from tpu_tgi.router.errors import IncompleteStreamError
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.scheduling.channel import NewToken
from tpu_tgi.router.scheduling.inference import Inference


async def token_stream(inference: Inference, body: GenerateRequest) -> AsyncGenerator[StreamResponse, None]:
    """Closing it gives the place on the shard up. Raises RequestError."""
    async with inference.stream(body) as running:
        index = 0
        async for answer in running:
            if not isinstance(answer, NewToken):
                continue
            index += 1
            yield stream_response(index, answer, body, running.entry.request.input_length)
            if answer.finished is not None:
                return
    raise IncompleteStreamError


def stream_response(index: int, answer: NewToken, body: GenerateRequest, input_length: int) -> StreamResponse:
    """The event of one token; `index` counts from 1."""
    finished = answer.finished
    text = details = None
    if finished is not None:
        text = (body.inputs if body.parameters.return_full_text else "") + finished.text
        if body.parameters.details:
            details = StreamDetails(
                finish_reason=finished.finish_reason,
                generated_tokens=finished.generated_tokens,
                seed=finished.seed,
                input_length=input_length,
            )
    return StreamResponse(
        index=index,
        token=TokenBody(**asdict(answer.token)),
        top_tokens=[TokenBody(**asdict(token)) for token in answer.top_tokens],
        generated_text=text,
        details=details,
    )
