"""POST /generate: the whole answer at once."""

import time
from dataclasses import asdict

from loguru import logger
from starlette.requests import Request
from starlette.responses import Response

from tpu_tgi.router.api.responses import BestOfSequence, Details, GenerateResponse, PromptTokenBody, TokenBody
from tpu_tgi.router.api.timing import timing_headers
from tpu_tgi.router.context import RouterContext, context_of
from tpu_tgi.router.http.body import read_body
from tpu_tgi.router.http.disconnect import unless_client_leaves
from tpu_tgi.router.http.json_response import json_response
from tpu_tgi.router.http.operation import GENERATION_ERRORS, Operation
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.scheduling.inference import Inference
from tpu_tgi.router.shard.generation import GenerationResult, PromptToken, Token


async def generate(request: Request) -> Response:
    context = context_of(request)
    body = await read_body(request, GenerateRequest, context.settings.payload_limit)
    answer, headers = await unless_client_leaves(request, answer_request(context, body))
    return json_response(answer, headers=headers)


async def answer_request(
    context: RouterContext, body: GenerateRequest
) -> tuple[GenerateResponse, dict[str, str]]:
    """The answer and its timing headers. Raises RequestError."""
    best, others, headers = await timed(context, body)
    prompt = body.inputs if body.parameters.return_full_text else ""
    answer = GenerateResponse(
        generated_text=prompt + best.generated.text,
        details=details(best, others, prompt)
        if body.parameters.details or body.parameters.decoder_input_details
        else None,
    )
    return answer, headers


async def timed(
    context: RouterContext, body: GenerateRequest
) -> tuple[GenerationResult, list[GenerationResult] | None, dict[str, str]]:
    """What `run` returns, and the timing headers of the best sequence. Raises RequestError."""
    arrived = time.perf_counter()
    best, others = await run(context.inference, body)
    headers = timing_headers(arrived, body.inputs, best, context.compute_type)
    logger.info("Answered: {}", ", ".join(f"{name[2:]} {value}" for name, value in list(headers.items())[2:]))
    return best, others, headers


async def run(
    inference: Inference, body: GenerateRequest
) -> tuple[GenerationResult, list[GenerationResult] | None]:
    """The best sequence, and the others if `best_of` asks for any."""
    best_of = body.parameters.best_of or 1
    if best_of == 1:
        return await inference.generate(body), None
    best, *others = await inference.generate_best_of(body, best_of)
    return best, others


def details(best: GenerationResult, others: list[GenerationResult] | None, prompt: str) -> Details:
    return Details(
        finish_reason=best.generated.finish_reason,
        generated_tokens=best.generated.generated_tokens,
        seed=best.generated.seed,
        prefill=prompt_token_bodies(best.prefill),
        tokens=token_bodies(best.tokens),
        best_of_sequences=None
        if others is None
        else [
            BestOfSequence(
                generated_text=prompt + other.generated.text,
                finish_reason=other.generated.finish_reason,
                generated_tokens=other.generated.generated_tokens,
                seed=other.generated.seed,
                prefill=prompt_token_bodies(other.prefill),
                tokens=token_bodies(other.tokens),
                top_tokens=[token_bodies(top) for top in other.top_tokens],
            )
            for other in others
        ],
        top_tokens=[token_bodies(top) for top in best.top_tokens],
    )


def token_bodies(tokens: list[Token]) -> list[TokenBody]:
    return [TokenBody(**asdict(token)) for token in tokens]


def prompt_token_bodies(tokens: list[PromptToken]) -> list[PromptTokenBody]:
    return [PromptTokenBody(**asdict(token)) for token in tokens]


OPERATION = Operation(
    "POST",
    "/generate",
    generate,
    "Generate text",
    body=GenerateRequest,
    answer=GenerateResponse,
    errors=GENERATION_ERRORS,
    needs_key=True,
)
