"""What can go wrong with a request, with the status, type and text that stock TGI gives it."""

from typing import ClassVar


class RequestError(Exception):
    """A request that fails alone. `status` is sent where the answer has not begun yet."""

    status: ClassVar[int]
    error_type: ClassVar[str]

    @property
    def text(self) -> str:
        return str(self)


class ValidationError(RequestError):
    """The request asks for something that is not allowed."""

    status = 422
    error_type = "validation"

    @property
    def text(self) -> str:
        return f"Input validation error: {self}"


class OverloadedError(RequestError):
    """As many requests as `max_concurrent_requests` are being served already."""

    status = 429
    error_type = "overloaded"

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class GenerationError(RequestError):
    """The shard failed; the message is the shard's."""

    status = 424
    error_type = "generation"

    @property
    def text(self) -> str:
        return f"Request failed during generation: {self}"


class IncompleteGenerationError(RequestError):
    """The shard forgot the request before it was finished."""

    status = 500
    error_type = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class IncompleteStreamError(RequestError):
    """The same, where tokens are streamed."""

    status = 500
    error_type = "incomplete_generation_stream"

    def __init__(self) -> None:
        super().__init__("Incomplete generation stream")


class TemplateError(RequestError):
    """The chat template is missing or damaged, or it refuses the messages."""

    status = 422
    error_type = "template_error"

    @property
    def text(self) -> str:
        return f"Template error: {self}"


class ToolError(RequestError):
    """The tools cannot be used as asked, or the model wrote no valid call."""

    status = 422
    error_type = "tool_error"

    @property
    def text(self) -> str:
        return f"Tool error: {self}"


class SuffixError(RequestError):
    """A completion with a suffix."""

    status = 422
    error_type = "suffix not supported"

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


class TooManyPromptsError(RequestError):
    """A completion of more prompts than `max_client_batch_size`."""

    status = 422
    error_type = "batch size exceeded"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Number of prompts exceeds the maximum allowed batch size of {limit}")


class ShardError(Exception):
    """A call to the shard failed. The text is the one that stock TGI shows to clients."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Server error: {message}")


class ShardProtocolError(RuntimeError):
    """The shard broke the protocol in a way from which the router cannot recover."""


class RouterStartError(RuntimeError):
    """The router cannot serve this shard; the message names the option to change."""
