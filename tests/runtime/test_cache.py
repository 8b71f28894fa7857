"""The compile cache: what is broken, full or foreign costs a line in the log, and is made again."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from text_generation_server.runtime import cache as module
from text_generation_server.runtime.cache import ProgramCache, key_of


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(handler)


def test_what_was_put_is_found_by_another_process(tmp_path: Path) -> None:
    ProgramCache(tmp_path / "deep" / "cache").put("a", b"payload")
    assert ProgramCache(tmp_path / "deep" / "cache").get("a") == b"payload"
    assert ProgramCache(tmp_path / "deep" / "cache").get("b") is None


def test_without_a_directory_nothing_is_kept() -> None:
    cache = ProgramCache(None)
    cache.put("a", b"payload")
    assert cache.get("a") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"rubbish", module.MAGIC, module.MAGIC + b"0" * 32 + b"payload"],
    ids=["empty", "foreign", "cut", "changed"],
)
def test_a_damaged_entry_is_mentioned_and_made_again(
    tmp_path: Path, content: bytes, warnings: list[str]
) -> None:
    cache = ProgramCache(tmp_path)
    (tmp_path / "a").write_bytes(content)
    assert cache.get("a") is None
    assert len(warnings) == 1
    assert "is damaged and is made again" in warnings[0]
    cache.put("a", b"new")
    assert cache.get("a") == b"new"


def test_an_entry_that_is_a_directory_is_mentioned(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "a").mkdir()
    assert ProgramCache(tmp_path).get("a") is None
    assert "cannot be read" in warnings[0]


def test_a_full_disk_is_mentioned_once_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    cache = ProgramCache(tmp_path)
    cache.put("before", b"payload")

    def full(source: str, destination: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for key in ("a", "b"):
        cache.put(key, b"payload")
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    assert "--compile-cache" in warnings[0]
    assert [file.name for file in tmp_path.iterdir()] == ["before"]
    assert cache.get("before") == b"payload"


def test_a_directory_that_cannot_be_made_is_mentioned(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "file").write_text("no directory")
    cache = ProgramCache(tmp_path / "file" / "cache")
    cache.put("a", b"payload")
    assert cache.get("a") is None
    assert any("cannot be made" in warning for warning in warnings)


def test_the_entries_that_were_not_used_for_longest_make_room(tmp_path: Path) -> None:
    size = len(module.MAGIC) + 32 + 100
    cache = ProgramCache(tmp_path, largest=3 * size)
    for age, key in enumerate(("old", "used", "young")):
        cache.put(key, b"x" * 100)
        os.utime(tmp_path / key, (1000 + age, 1000 + age))
    (tmp_path / "somebody else's").write_bytes(b"y" * 100)
    os.utime(tmp_path / "somebody else's", (1, 1))
    assert cache.get("old") is not None, "which makes it the last used"
    cache.put("new", b"x" * 100)
    names = {file.name for file in tmp_path.iterdir()}
    assert "used" not in names
    assert {"old", "new", "somebody else's"} <= names


def test_a_writer_that_is_killed_leaves_no_entry(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from text_generation_server.runtime.cache import ProgramCache
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        ProgramCache(Path(sys.argv[1])).put("a", b"payload")
        """
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert done.returncode == -9
    assert ProgramCache(tmp_path).get("a") is None
    assert len(list(tmp_path.iterdir())) == 1, "what it wrote is swept up later"


def test_keys_differ_with_each_part_and_with_how_they_are_cut() -> None:
    keys = [key_of("k", "ab", "c"), key_of("k", "a", "bc"), key_of("k", "abc"), key_of("l", "abc")]
    assert len(set(keys)) == 4
