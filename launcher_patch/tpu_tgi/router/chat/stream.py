"""A chat whose answer is streamed, and the chunks that each token becomes (HTTP reference, sections 2.2 and 2.4)."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from tpu_tgi.router.api.responses import StreamResponse
from tpu_tgi.router.api.token_stream import token_stream
from tpu_tgi.router.chat.answer import TOOL_CALLS, next_call_id, token_logprob
from tpu_tgi.router.chat.prompt import ChatPrompt, text_prompt
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.chat.tool_call import CallInPieces
from tpu_tgi.router.chat.tools import NO_TOOL
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.sse import event
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
from tpu_tgi.router.openai.stream_end import DONE, error_event
from tpu_tgi.router.scheduling.inference import Inference


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


class ChatStream:
    """Args: model: the name to answer under. template: for a second prompt, if the model wants no tool."""

    def __init__(self, chat: ChatRequest, model: str, inference: Inference, template: ChatTemplate) -> None:
        self._chat = chat
        self._model = model
        self._inference = inference
        self._template = template

    async def events(self, prompt: ChatPrompt) -> AsyncGenerator[bytes, None]:
        """Chunks, then `[DONE]`; what goes wrong is an event before it."""
        try:
            async with aclosing(self._answer(prompt)) as chunks:
                async for chunk in chunks:
                    yield event(chunk)
        except RequestError as error:
            yield error_event(error)
        yield DONE

    async def _answer(self, prompt: ChatPrompt) -> AsyncGenerator[ChatChunk, None]:
        """Raises RequestError."""
        if prompt.calls_tool:
            call = CallChunks(self._chat, self._model)
            async with aclosing(self._chunks(prompt, call)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if not call.is_no_call:
                return
            prompt = await text_prompt(self._chat, self._template)
        async with aclosing(self._chunks(prompt, TextChunks(self._chat, self._model))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _chunks(
        self, prompt: ChatPrompt, maker: TextChunks | CallChunks
    ) -> AsyncGenerator[ChatChunk, None]:
        """Ends early, and gives the place on the shard up, where the model wants no tool."""
        tokens = token_stream(self._inference, prompt.request)
        async with aclosing(tokens):
            async for token in tokens:
                for chunk in maker.of(token):
                    yield chunk
                if isinstance(maker, CallChunks) and maker.is_no_call:
                    return
