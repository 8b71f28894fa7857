"""API keys from a file, which the list of processes does not show."""

from pathlib import Path

from text_generation_server.errors import InvalidSettingError


def read_keys(path: str | None) -> tuple[str, ...]:
    """One on each line. Raises InvalidSettingError for a file that cannot be read or has none."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InvalidSettingError(
            f"`--api-key-file {path}` cannot be read: {error}. A file with a key on each line would work"
        ) from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise InvalidSettingError(
            f"`--api-key-file {path}` has no key: a file with a key on each line would work"
        )
    return keys
