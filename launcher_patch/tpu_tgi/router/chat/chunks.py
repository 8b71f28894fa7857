"""The chunks that one token of a chat becomes (HTTP reference, sections 2.2 and 2.4)."""

from collections.abc import Iterator

from tpu_tgi.router.api.responses import StreamResponse
from tpu_tgi.router.chat.answer import TOOL_CALLS, next_call_id, token_logprob
from tpu_tgi.router.chat.tool_call import CallInPieces
from tpu_tgi.router.chat.tools import NO_TOOL
from tpu_tgi.router.openai.chat_request import ChatRequest
from tpu_tgi.router.openai.responses import (
    FINISH_REASONS,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    Delta,
    FunctionCallDelta,
    ToolCallDelta,
    usage,
)


class TextChunks:
    """For answers of text: one chunk for each token, special ones without content.

    Args:
        model: the name to answer under.
    """

    def __init__(self, chat: ChatRequest, model: str) -> None:
        self._chat = chat
        self._model = model

    def of(self, token: StreamResponse) -> Iterator[ChatChunk]:
        yield self.chunk(token, Delta(content="" if token.token.special else token.token.text))
        yield from self.usage(token)

    def chunk(self, token: StreamResponse, delta: Delta, finish_reason: str | None = None) -> ChatChunk:
        """`finish_reason` stands in for the token's own."""
        if finish_reason is None and token.details is not None:
            finish_reason = FINISH_REASONS[token.details.finish_reason]
        logprobs = None
        if self._chat.logprobs:
            logprobs = ChatLogprobs(content=[token_logprob(token.token, token.top_tokens)])
        choice = ChatChunkChoice(delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return ChatChunk(model=self._model, choices=[choice])

    def usage(self, token: StreamResponse) -> Iterator[ChatChunk]:
        """After the last token, if it is asked for."""
        if token.details is not None and self._chat.stream_options.include_usage:
            counts = usage(token.details.input_length, token.details.generated_tokens)
            yield ChatChunk(model=self._model, choices=[], usage=counts)


class CallChunks:
    """For answers that are the JSON of a tool call. Tokens that add nothing to the arguments have no chunk.

    The last chunk has a finish reason, which the stock router leaves out: `tool_calls`, or another one if the
    call was cut off.
    """

    def __init__(self, chat: ChatRequest, model: str) -> None:
        self._texts = TextChunks(chat, model)
        self._call = CallInPieces()
        self._id = next_call_id(chat)
        self._named = False

    @property
    def is_no_call(self) -> bool:
        """The model prefers to answer with text; nothing was sent yet."""
        return self._call.name == NO_TOOL

    def of(self, token: StreamResponse) -> Iterator[ChatChunk]:
        arguments = None if token.token.special else self._call.push(token.token.text)
        if self.is_no_call:
            return
        finish_reason = TOOL_CALLS if token.details is not None and self._call.complete else None
        if arguments is not None:
            function = FunctionCallDelta(name=None if self._named else self._call.name, arguments=arguments)
            self._named = True
            delta = Delta(tool_calls=[ToolCallDelta(id=self._id, function=function)])
            yield self._texts.chunk(token, delta, finish_reason)
        elif token.details is not None:
            yield self._texts.chunk(token, Delta(content=""), finish_reason)
        yield from self._texts.usage(token)
