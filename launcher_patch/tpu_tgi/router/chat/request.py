"""Body of /v1/chat/completions and /chat_tokenize."""

from typing import Any, Self

from pydantic import Field, model_validator

from tpu_tgi.router.chat.messages import Message
from tpu_tgi.router.chat.response_format import ResponseFormat
from tpu_tgi.router.chat.tools import Tool, ToolChoice
from tpu_tgi.router.http.request_body import Items, RequestBody, Unsigned32
from tpu_tgi.router.openai.sampled_request import SampledRequest


class StreamOptions(RequestBody):
    """include_usage: one more chunk at the end of the stream, with the token counts."""

    include_usage: bool = False


class ChatRequest(SampledRequest):
    """A conversation to go on with. It is sampled unless `temperature` is 0.

    Attributes:
        model: echoed, and the id of the adapter to use, unless it is "tgi".
        presence_penalty: plus 2, it is the repetition penalty (the stock router's rule).
        logit_bias: a list has no effect, as with the stock router; a bias of OpenAI's form is refused.
        n: has no effect, as with the stock router: there is one choice.
        top_logprobs: alternatives of each token, shown with `logprobs`.
        tool_prompt: added to the last message, where there are tools; empty is the stock router's sentence.
    """

    messages: Items[Message]
    presence_penalty: float | None = None
    logit_bias: Items[float] | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Unsigned32 | None = None
    max_tokens: Unsigned32 | None = None
    max_completion_tokens: Unsigned32 | None = Field(default=None, description="Newer name of `max_tokens`.")
    n: Unsigned32 | None = None
    stream_options: StreamOptions = StreamOptions()
    tools: Items[Tool] | None = None
    tool_prompt: str | None = None
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def check_limit(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("`max_tokens` and `max_completion_tokens` are the same: give one of them")
        return self
