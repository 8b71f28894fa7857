"""From a request body to its answer: permits, queue, and the collection of tokens."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from tpu_tgi.router.channel import AnswerChannel, NewToken, PromptTokens
from tpu_tgi.router.errors import GenerationError, IncompleteGenerationError, OverloadedError
from tpu_tgi.router.generation import GenerationResult, PromptToken, Token
from tpu_tgi.router.health import Health
from tpu_tgi.router.queue import Entry, WaitingQueue
from tpu_tgi.router.schemas import GenerateRequest
from tpu_tgi.router.validation import Validator


class Inference:
    """Serves at most `max_concurrent_requests` at a time; the next one is refused, never kept waiting."""

    def __init__(
        self, validator: Validator, queue: WaitingQueue, health: Health, max_concurrent_requests: int
    ) -> None:
        self._validator = validator
        self._queue = queue
        self._health = health
        self._permits = max_concurrent_requests

    def stream(self, body: GenerateRequest) -> "RunningRequest":
        """The tokens of one request, to be used as `async with`."""
        return RunningRequest(self, body)

    async def generate(self, body: GenerateRequest) -> GenerationResult:
        """The whole answer. Raises RequestError."""
        async with self.stream(body) as running:
            prefill: list[PromptToken] = []
            tokens: list[Token] = []
            top_tokens: list[list[Token]] = []
            async for answer in running:
                if isinstance(answer, PromptTokens):
                    prefill = list(answer.tokens)
                    continue
                tokens.append(answer.token)
                top_tokens.append(list(answer.top_tokens))
                if answer.finished is not None:
                    return GenerationResult(
                        input_length=running.entry.request.input_length,
                        generated=answer.finished,
                        queued=running.entry.queued,
                        started=running.entry.started,
                        prefill=prefill,
                        tokens=tokens,
                        top_tokens=top_tokens if body.parameters.top_n_tokens else [],
                    )
            raise IncompleteGenerationError

    async def generate_best_of(self, body: GenerateRequest, best_of: int) -> list[GenerationResult]:
        """`best_of` answers, the one with the highest mean logprob first; the first failure fails all."""
        self._validator.check_best_of(best_of)
        runs = [asyncio.create_task(self.generate(body)) for _ in range(best_of)]
        try:
            results = list(await asyncio.gather(*runs))
        finally:
            for run in runs:
                run.cancel()
        best = max(results, key=lambda result: result.mean_logprob)
        return [best, *(result for result in results if result is not best)]

    def take_permit(self) -> None:
        """Raises OverloadedError if there is none."""
        if self._permits == 0:
            raise OverloadedError
        self._permits -= 1

    def return_permit(self) -> None:
        self._permits += 1

    async def enqueue(self, body: GenerateRequest) -> Entry:
        """Raises ValidationError."""
        entry = Entry(await self._validator.validate(body), AnswerChannel())
        self._queue.append(entry)
        return entry

    def report_failure(self) -> None:
        self._health.report_failure()


class RunningRequest:
    """One request in the queue or on the shard, which leaves both when the `async with` block is left."""

    entry: Entry

    def __init__(self, inference: Inference, body: GenerateRequest) -> None:
        self._inference = inference
        self._body = body

    async def __aenter__(self) -> Self:
        """Raises OverloadedError or ValidationError."""
        self._inference.take_permit()
        try:
            self.entry = await self._inference.enqueue(self._body)
        except BaseException:
            self._inference.return_permit()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entry.channel.close()
        self._inference.return_permit()

    async def __aiter__(self) -> AsyncIterator[PromptTokens | NewToken]:
        """Answers as they come. After a GenerationError the next health check is a real prefill."""
        try:
            while (answer := await self.entry.channel.receive()) is not None:
                yield answer
        except GenerationError:
            self._inference.report_failure()
            raise
