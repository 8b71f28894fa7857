"""Log lines as the launcher reads them: one JSON object per line, short, and written in one piece."""

import json
import logging
import os
import warnings
from collections.abc import Iterator

import pytest
from loguru import logger

from text_generation_server.errors import InvalidSettingError
from text_generation_server.telemetry import configure_logging

from .shard_process import launcher_records


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Each test configures the logging of the whole process."""
    handlers, level = logging.root.handlers, logging.root.level
    yield
    logger.remove()
    logging.captureWarnings(False)
    logging.root.handlers = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("TRACE", ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]),
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("INFO", ["INFO", "WARNING", "ERROR"]),
        ("WARN", ["WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
        ("OFF", []),
        ("info", ["INFO", "WARNING", "ERROR"]),
    ],
)
def test_the_levels_of_launchers_and_of_loguru_are_known(
    level: str, seen: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, json_output=True)
    for method in (logger.trace, logger.debug, logger.info, logger.warning, logger.error):
        method("something")
    assert launcher_records(capfd.readouterr().out) == [(name, "something") for name in seen]


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(InvalidSettingError, match=r"--logger-level must be one of .* Given: LOUD"):
        configure_logging("LOUD", json_output=True)


def test_a_record_is_one_line_and_one_write_that_the_launcher_can_read_at_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging("INFO", json_output=True)
    writes: list[bytes] = []
    original = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or original(fd, data))  # type: ignore[func-returns-value]
    logger.info("beginning\n" + "\x01" * 100_000 + "\nend \ud800")
    monkeypatch.undo()
    assert len(writes) == 1
    assert len(writes[0]) < 32 * 1024
    ((_, text),) = launcher_records(capfd.readouterr().out)
    assert text.startswith("beginning\n")
    assert text.endswith("end \ud800")


def test_an_exception_comes_with_its_traceback_in_the_same_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", json_output=True)
    try:
        raise ValueError("a {brace} and a <tag>")
    except ValueError:
        logger.exception("It went wrong")
    ((level, text),) = launcher_records(capfd.readouterr().out)
    assert level == "ERROR"
    assert text.startswith("It went wrong\nTraceback")
    assert text.endswith("ValueError: a {brace} and a <tag>")


def test_warnings_and_errors_of_libraries_become_records_and_their_chatter_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", json_output=True)
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").error("bad %s {}", "news")
    warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)
    captured = capfd.readouterr()
    records = launcher_records(captured.out)
    assert records[0] == ("ERROR", "library: bad news {}")
    assert records[1][0] == "WARNING"
    assert "old-fashioned" in records[1][1]
    assert len(records) == 2
    assert captured.err == ""


def test_plain_lines_are_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", json_output=False)
    logger.info("hello {}", "you")
    line = capfd.readouterr().out
    assert line.endswith(" INFO    hello you\n")
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)
