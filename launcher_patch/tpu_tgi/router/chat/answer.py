"""From what was generated for a chat to the message of the answer."""

import uuid

from tpu_tgi.router.api.responses import TokenBody
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.chat.tool_call import Call
from tpu_tgi.router.openai.responses import (
    FINISH_REASONS,
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    FunctionCall,
    TokenLogprob,
    ToolCall,
    TopLogprob,
    usage,
)
from tpu_tgi.router.shard.generation import GenerationResult, Token

TOOL_CALLS = "tool_calls"
"""Finish reason of a whole tool call. The stock router says `stop`, and nothing in streams."""


def chat_answer(chat: ChatRequest, model: str, result: GenerationResult, call: Call | None) -> ChatCompletion:
    """`model`: the name to answer under. With `call`, the text of the result is that call's."""
    generated = result.generated
    if call is None:
        message = AnswerMessage(content=generated.text)
    else:
        function = FunctionCall(name=call.name, arguments=call.arguments)
        message = AnswerMessage(tool_calls=[ToolCall(id=next_call_id(chat), function=function)])
    choice = ChatChoice(
        message=message,
        logprobs=logprobs(result) if chat.logprobs else None,
        finish_reason=FINISH_REASONS[generated.finish_reason] if call is None else TOOL_CALLS,
    )
    return ChatCompletion(
        model=model, choices=[choice], usage=usage(result.input_length, generated.generated_tokens)
    )


def logprobs(result: GenerationResult) -> ChatLogprobs:
    alternatives = result.top_tokens or [[] for _ in result.tokens]
    return ChatLogprobs(
        content=[token_logprob(token, top) for token, top in zip(result.tokens, alternatives, strict=True)]
    )


def token_logprob(token: Token | TokenBody, top: list[Token] | list[TokenBody]) -> TokenLogprob:
    return TokenLogprob(
        token=token.text,
        logprob=token.logprob,
        top_logprobs=[TopLogprob(token=other.text, logprob=other.logprob) for other in top],
    )


def next_call_id(chat: ChatRequest) -> str:
    """One more than the highest id of the conversation; a UUID if those ids are not all numbers."""
    earlier = [call.id for message in chat.messages for call in message.tool_calls or []]
    if all(number.isascii() and number.isdigit() for number in earlier):
        return str(max((int(number) + 1 for number in earlier), default=0))
    return str(uuid.uuid4())
