"""Errors that reach a user. Each message names the flag or field, the value given, and one that would work."""

LONGEST_QUOTE = 200
"""Characters of a user's value in a message: it goes to logs, and back in a status of limited size."""

LONGEST_MESSAGE = 1000
"""Characters of what is said of a request. What a client sent is quoted in it, and may be as long as it likes."""

LONGEST_REASON = 500
"""Characters of what another library says, where a message repeats it."""


def cut(message: str) -> str:
    """The beginning of a message that is too long, and how much is left out."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[:LONGEST_MESSAGE]}... ({len(message) - LONGEST_MESSAGE} more characters)"


class InvalidRequestError(ValueError):
    """A request that cannot be served as it was asked; only this request fails."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message))


class InvalidSettingError(ValueError):
    """A flag or environment variable, or a combination of them, that cannot be honoured."""


class UnsupportedModelError(ValueError):
    """A checkpoint that this server cannot run, or that does not fit the settings."""


class UnknownBatchError(KeyError):
    """A batch id that the server does not hold."""

    def __init__(self, batch_id: int) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    def __str__(self) -> str:
        return f"Batch ID {self.batch_id} not found in cache."


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Raises InvalidRequestError that names the field, the value given and what is allowed."""
    if not holds:
        raise InvalidRequestError(f"`{field}` must be {allowed}. Given: {quoted(str(value))}")


def quoted(text: str) -> str:
    """The beginning of a text that a message quotes, and how much is missing."""
    if len(text) <= LONGEST_QUOTE:
        return text
    return f"{text[:LONGEST_QUOTE]}... ({len(text)} characters)"


def one_line(error: BaseException) -> str:
    """What an error says, for one line of log; its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:LONGEST_REASON] if lines else type(error).__name__
