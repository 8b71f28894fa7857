"""POST /v1/completions: texts to go on with, whole or streamed."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.completion_stream import completion_events
from tpu_tgi.router.api.timing import stream_headers, summed_headers
from tpu_tgi.router.context import RouterContext, context_of
from tpu_tgi.router.errors import SuffixError, TooManyPromptsError
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.disconnect import unless_client_leaves
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import GENERATION_ERRORS, Operation
from tpu_tgi.router.http.sse import EventStream
from tpu_tgi.router.openai.completion_request import CompletionRequest
from tpu_tgi.router.openai.responses import (
    FINISH_REASONS,
    Completion,
    CompletionChoice,
    CompletionChunk,
    StreamErrorEvent,
    usage,
)
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.routes.generate import timed
from tpu_tgi.router.shard.generation import GenerationResult


async def completions(request: Request) -> Response:
    body = await read_body(request, CompletionRequest, context_of(request).settings.payload_limit)
    return await answer_completion(request, body)


async def answer_completion(request: Request, body: CompletionRequest) -> Response:
    """One text for each prompt; the first failure fails all of them, unless they are streamed."""
    context = context_of(request)
    context.metrics.count("tgi_request_count")
    if body.suffix is not None:
        context.metrics.failed("validation")
        raise SuffixError
    if len(body.prompt) > context.settings.max_client_batch_size:
        context.metrics.failed("validation")
        raise TooManyPromptsError(context.settings.max_client_batch_size)
    model = context.settings.model_name
    requests = generate_requests(body)
    if body.stream:
        headers = stream_headers("".join(body.prompt), context.compute_type)
        return EventStream(completion_events(context.inference, model, requests), headers)
    results, headers = await unless_client_leaves(request, answer_all(context, requests))
    prompt_tokens = sum(result.input_length for result in results)
    completion_tokens = sum(result.generated.generated_tokens for result in results)
    choices = [
        CompletionChoice(
            index=index,
            text=result.generated.text,
            finish_reason=FINISH_REASONS[result.generated.finish_reason],
        )
        for index, result in enumerate(results)
    ]
    answer = Completion(model=model, choices=choices, usage=usage(prompt_tokens, completion_tokens))
    return json_response(answer, headers=headers)


def generate_requests(body: CompletionRequest) -> list[GenerateRequest]:
    """One for each prompt, with the same parameters."""
    parameters = body.parameters(max_new_tokens=body.max_tokens, repetition_penalty=body.repetition_penalty)
    return [GenerateRequest(inputs=prompt, parameters=parameters) for prompt in body.prompt]


async def answer_all(
    context: RouterContext, requests: list[GenerateRequest]
) -> tuple[list[GenerationResult], dict[str, str]]:
    """The results in the order of the requests, and their timing headers summed. Raises RequestError."""
    runs = [asyncio.create_task(timed(context, request)) for request in requests]
    try:
        answers = await asyncio.gather(*runs)
    finally:
        for run in runs:
            run.cancel()
    return [result for result, _, _ in answers], summed_headers([headers for _, _, headers in answers])


OPERATION = Operation(
    "POST",
    "/v1/completions",
    completions,
    "Go on with one text or several, streamed if `stream` is true",
    body=CompletionRequest,
    answer=Completion,
    events=CompletionChunk | Completion | StreamErrorEvent,
    errors=GENERATION_ERRORS,
    needs_key=True,
)
