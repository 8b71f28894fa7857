"""From a request body to its answer: permits, queue, and the collection of tokens."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tpu_tgi.router.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    ValidationError,
)
from tpu_tgi.router.metrics import Metrics
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.requests.validation import Validator
from tpu_tgi.router.scheduling.channel import AnswerChannel, NewToken, PromptTokens
from tpu_tgi.router.scheduling.queue import Entry, WaitingQueue
from tpu_tgi.router.shard.generation import GeneratedText, GenerationResult, PromptToken, Token
from tpu_tgi.router.shard.health import Health


class Inference:
    """Serves at most `max_concurrent_requests` at a time; the next one is refused, never kept waiting.

    Its three public ways to generate count what the stock router counts, at the same moments.
    """

    def __init__(
        self,
        validator: Validator,
        queue: WaitingQueue,
        health: Health,
        metrics: Metrics,
        max_concurrent_requests: int,
    ) -> None:
        self._metrics = metrics
        self._validator = validator
        self._queue = queue
        self._health = health
        self._permits = max_concurrent_requests

    def stream(self, body: GenerateRequest) -> "RunningRequest":
        """The tokens of one request, to be used as `async with`. Raises ValidationError."""
        self._metrics.count("tgi_request_count")
        refusal = None
        if body.parameters.best_of not in (None, 1):
            refusal = "`best_of` != 1 is not supported when streaming tokens"
        elif body.parameters.decoder_input_details:
            refusal = "`decoder_input_details` == true is not supported when streaming tokens"
        if refusal is not None:
            self._metrics.failed("validation")
            raise ValidationError(refusal)
        return RunningRequest(self, body, on_finish=self._finished)

    async def generate(self, body: GenerateRequest) -> GenerationResult:
        """The whole answer. Raises RequestError."""
        self._metrics.count("tgi_request_count")
        arrived = time.perf_counter()
        result = await self._collect(body)
        self._finished(arrived, result.queued, result.started, result.generated)
        return result

    async def _collect(self, body: GenerateRequest) -> GenerationResult:
        async with RunningRequest(self, body, on_finish=None) as running:
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
        self._metrics.count("tgi_request_count")
        arrived = time.perf_counter()
        self._validator.check_best_of(best_of)
        runs = [asyncio.create_task(self._collect(body)) for _ in range(best_of)]
        try:
            results = list(await asyncio.gather(*runs))
        finally:
            for run in runs:
                run.cancel()
        best = max(results, key=lambda result: result.mean_logprob)
        self._finished(arrived, best.queued, best.started, best.generated)
        return [best, *(result for result in results if result is not best)]

    @contextmanager
    def permit(self) -> Iterator[None]:
        """For work that counts as a request, although nothing is generated. Raises OverloadedError."""
        self.take_permit()
        try:
            yield
        finally:
            self.return_permit()

    def take_permit(self) -> None:
        """Raises OverloadedError if there is none."""
        if self._permits == 0:
            self._metrics.failed("overloaded")
            raise OverloadedError
        self._permits -= 1

    def return_permit(self) -> None:
        self._permits += 1

    async def enqueue(self, body: GenerateRequest) -> Entry:
        """Raises ValidationError."""
        try:
            request = await self._validator.validate(body)
        except ValidationError:
            self._metrics.failed("validation")
            raise
        self._metrics.observe("tgi_request_input_length", request.input_length)
        self._metrics.observe("tgi_request_max_new_tokens", request.max_new_tokens)
        entry = Entry(request, AnswerChannel())
        self._queue.append(entry)
        return entry

    def report_failure(self) -> None:
        """The shard failed: the next health check is a real prefill."""
        self._health.report_failure()

    def report_incomplete(self) -> None:
        """The shard forgot a request, and its client was told."""
        self._metrics.failed("incomplete")

    def _finished(self, arrived: float, queued: float, started: float, generated: GeneratedText) -> None:
        self._metrics.finished(arrived, queued, started, time.perf_counter(), generated.generated_tokens)


OnFinish = Callable[[float, float, float, GeneratedText], None]


class RunningRequest:
    """One request in the queue or on the shard, which leaves both when the `async with` block is left.

    Args:
        on_finish: called with the times of arrival, queueing and start when the last token has come.
    """

    entry: Entry

    def __init__(self, inference: Inference, body: GenerateRequest, on_finish: OnFinish | None) -> None:
        self._arrived = time.perf_counter()
        self._on_finish = on_finish
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
        """Answers as they come; without a last token among them the generation is incomplete."""
        finished: GeneratedText | None = None
        try:
            while (answer := await self.entry.channel.receive()) is not None:
                if isinstance(answer, NewToken) and answer.finished is not None:
                    finished = answer.finished
                    if self._on_finish is not None:
                        self._on_finish(self._arrived, self.entry.queued, self.entry.started, finished)
                yield answer
        except GenerationError:
            self._inference.report_failure()
            raise
        if finished is None:
            self._inference.report_incomplete()
