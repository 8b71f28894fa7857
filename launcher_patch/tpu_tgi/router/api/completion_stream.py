"""Several texts that grow at once, in one stream (HTTP reference, section 2.3)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tpu_tgi.router.api.responses import StreamResponse
from tpu_tgi.router.api.token_stream import token_stream
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.sse import event
from tpu_tgi.router.openai.responses import Completion, CompletionChoice, CompletionChunk, usage
from tpu_tgi.router.openai.stream_end import DONE, error_event
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.scheduling.inference import Inference


async def completion_events(
    inference: Inference, model: str, requests: list[GenerateRequest]
) -> AsyncGenerator[bytes, None]:
    """One event of each text in turn; a text that fails ends with an error, and the others go on."""
    texts = [one_text(inference, model, index, request) for index, request in enumerate(requests)]
    async with aclosing(in_turn(texts)) as events:
        async for piece in events:
            yield piece
    yield DONE


async def one_text(
    inference: Inference, model: str, index: int, request: GenerateRequest
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(token_stream(inference, request)) as tokens:
            async for token in tokens:
                yield event(chunk(model, index, token))
    except RequestError as error:
        yield error_event(error)


def chunk(model: str, index: int, token: StreamResponse) -> CompletionChunk | Completion:
    """The last one has the usage of its text."""
    details = token.details
    if details is None:
        choice = CompletionChoice(index=index, text=token.token.text, finish_reason="")
        return CompletionChunk(model=model, choices=[choice])
    choice = CompletionChoice(index=index, text=token.token.text, finish_reason=details.finish_reason)
    counts = usage(details.input_length, details.generated_tokens)
    return Completion(model=model, choices=[choice], usage=counts)


async def in_turn(sources: list[AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
    """One piece of each source after the other, until all have ended. All of them run from the beginning.

    Closes them at its own end.
    """
    upcoming = {index: asyncio.ensure_future(anext(source, None)) for index, source in enumerate(sources)}
    try:
        while upcoming:
            for index in list(upcoming):
                piece = await upcoming[index]
                if piece is None:
                    del upcoming[index]
                    continue
                upcoming[index] = asyncio.ensure_future(anext(sources[index], None))
                yield piece
    finally:
        for task in upcoming.values():
            task.cancel()
        await asyncio.gather(*upcoming.values(), return_exceptions=True)
        for source in sources:
            await source.aclose()
