"""Errors that reach a user. Each message names the flag or field, the value given, and one that would work."""

LONGEST_QUOTE = 200
"""Characters of a user's value in a message: it goes to logs, and back in a status of limited size."""


class InvalidRequestError(ValueError):
    """A request that cannot be served as it was asked; only this request fails."""


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
