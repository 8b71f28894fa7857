"""The way back from the batching loop to the client of one request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tpu_tgi.router.errors import GenerationError
from tpu_tgi.router.shard.generation import GeneratedText, PromptToken, Token


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of the prompt; first, if they were asked for and the shard sends them."""

    tokens: tuple[PromptToken, ...]


@dataclass(frozen=True)
class NewToken:
    """One token; `finished` is set with the last one."""

    token: Token
    top_tokens: tuple[Token, ...]
    finished: GeneratedText | None


Answer = PromptTokens | NewToken


class AnswerChannel:
    """Carries the answers of one request. The batching loop never waits for a slow client."""

    def __init__(self) -> None:
        self.closed = False
        self.on_close: Callable[[], None] | None = None
        self._answers: asyncio.Queue[Answer | GenerationError | None] = asyncio.Queue()

    def close(self) -> None:
        """The client is gone: the queue, or the batching loop at its next token, drops the request."""
        self.closed = True
        if self.on_close is not None:
            self.on_close()

    def send(self, answer: Answer) -> None:
        self._answers.put_nowait(answer)

    def fail(self, error: GenerationError) -> None:
        """Nothing follows an error."""
        self._answers.put_nowait(error)

    def end(self) -> None:
        """Nothing follows; without a last token before it the answer is incomplete."""
        self._answers.put_nowait(None)

    async def receive(self) -> Answer | None:
        """The next answer, None at the end. Raises GenerationError if the shard failed."""
        answer = await self._answers.get()
        if isinstance(answer, GenerationError):
            raise answer
        return answer
