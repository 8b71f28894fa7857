"""Files that make the next start fast: lowered programs and compiled ones. Losing one costs its making, never a start.

Each entry is one file with a checksum, written beside its place and moved there whole; so a writer that is killed, a
second server on the same directory, and a disk that fills up leave an entry that is whole, or none.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

from loguru import logger

MAGIC = b"tpu-tgi cache 1\n"
LARGEST = 8 * 2**30
"""Bytes that all entries may take together. Those that were not used for longest go first."""

ABANDONED_SECONDS = 3600.0
"""Age at which an unfinished file belongs to a writer that is gone."""


class ProgramCache:
    """A directory of entries, by key; or, without a directory, nothing that is ever found."""

    def __init__(self, directory: Path | None, largest: int = LARGEST) -> None:
        """`directory` is made if need be; one that cannot be used costs a line in the log."""
        self._directory = directory
        self._largest = largest
        self._writable = directory is not None
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._give_up("made", error)

    def get(self, key: str) -> bytes | None:
        """What was put under this key, or None."""
        if self._directory is None:
            return None
        path = self._directory / key
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("Compile cache: {} cannot be read and is made again: {}", path, error)
            return None
        payload = unsealed(content)
        if payload is None:
            logger.warning("Compile cache: {} is damaged and is made again", path)
            self.forget(key)
            return None
        # The time of its last use. A cache that only others may write to keeps no order.
        with contextlib.suppress(OSError):
            os.utime(path)
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Keeps an entry, if the disk lets it; the first failure is logged, and nothing is written after it."""
        if self._directory is None or not self._writable:
            return
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".new-", delete=False) as file:
                temporary = file.name
                file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, self._directory / key)
            self._make_room(self._directory, key)
        except OSError as error:
            self._give_up("written", error)
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def forget(self, key: str) -> None:
        """Removes an entry that turned out to be of no use."""
        if self._directory is not None:
            with contextlib.suppress(OSError):
                (self._directory / key).unlink()

    def _make_room(self, directory: Path, newest: str) -> None:
        now, files = time.time(), []
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                if not path.is_file():
                    continue
                if path.name.startswith(".new-"):
                    if now - status.st_mtime > ABANDONED_SECONDS:
                        path.unlink()
                else:
                    files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._largest:
                return
            if path.name != newest and is_entry(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size

    def _give_up(self, what: str, error: OSError) -> None:
        self._writable = False
        logger.warning(
            "Compile cache: {} cannot be {} ({}): what is compiled now is compiled again at the next start. "
            "--compile-cache names another directory",
            self._directory,
            what,
            error,
        )


def unsealed(content: bytes) -> bytes | None:
    """The payload of an entry, or None if that is not what it was when it was written."""
    start = len(MAGIC) + hashlib.sha256().digest_size
    payload = content[start:]
    whole = content.startswith(MAGIC) and hashlib.sha256(payload).digest() == content[len(MAGIC) : start]
    return payload if whole else None


def is_entry(path: Path) -> bool:
    """Whether the file is ours: a directory may hold other people's files too."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def key_of(kind: str, *parts: str | bytes) -> str:
    """A file name that changes with any of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return f"{kind}-{digest.hexdigest()[:40]}"
