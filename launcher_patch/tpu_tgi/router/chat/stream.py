"""A chat whose answer is streamed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tpu_tgi.router.api.token_stream import token_stream
from tpu_tgi.router.chat.chunks import CallChunks, TextChunks
from tpu_tgi.router.chat.prompt import ChatPrompt, text_prompt
from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.sse import event
from tpu_tgi.router.openai.chat_request import ChatRequest
from tpu_tgi.router.openai.responses import ChatChunk
from tpu_tgi.router.openai.stream_end import DONE, error_event
from tpu_tgi.router.scheduling.inference import Inference


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
