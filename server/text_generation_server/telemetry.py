"""Log lines: JSON as the TGI launcher reads them, or plain text for people."""

import json
import logging
import os
import sys
from collections.abc import Callable

import loguru
from loguru import logger

from text_generation_server.engine.contract import WarmupProgress
from text_generation_server.errors import InvalidSettingError

LEVELS = {
    "TRACE": "TRACE",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "SUCCESS": "SUCCESS",
    "WARN": "WARNING",
    "WARNING": "WARNING",
    "ERROR": "ERROR",
    "CRITICAL": "CRITICAL",
    "OFF": None,
}
"""Names of levels, the launcher's (WARN, OFF) and loguru's, to loguru's; None logs nothing."""

LONGEST_TEXT = 4000
"""Characters of one record. Escaped as JSON they stay below the 32 KiB that the launcher reads at once; a
line across the end of such a read is lost (protocol section 6.5)."""


def configure_logging(level: str, *, json_output: bool) -> None:
    """Sends our records, and warnings and errors of libraries, to stdout.

    Stdout and not stderr, because the launcher shows stderr only after the shard has ended.
    Raises InvalidSettingError for an unknown level, and logs from INFO on.
    """
    threshold = LEVELS.get(level.upper(), "INFO")
    logger.remove()
    if threshold is not None:
        render = json_line if json_output else plain_line
        # A format that adds nothing: the sink renders the record, and exceptions follow the message.
        logger.add(
            write_to_stdout(render),
            level=threshold,
            format="{message}",
            filter=Flood().lets_pass,
            backtrace=False,
            diagnose=False,
        )
    logging.root.handlers = [LibraryRecords()]
    logging.root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if level.upper() not in LEVELS:
        raise InvalidSettingError(f"--logger-level must be one of {', '.join(LEVELS)}. Given: {level}")


def log_progress(progress: WarmupProgress) -> None:
    """One line for each program; launchers read how far the start is from its beginning."""
    logger.info(
        "Warm-up {}/{}: {} {} in {:.1f} s",
        progress.index,
        progress.count,
        progress.program,
        progress.origin,
        progress.seconds,
    )


def json_line(message: "loguru.Message") -> str:
    """The keys that the launcher needs, `text` and `record.level.name`, and some for people."""
    record = message.record
    return json.dumps(
        {
            "text": shortened(str(message).rstrip()),
            "record": {
                "level": {"name": record["level"].name},
                "time": record["time"].isoformat(),
                "name": record["name"],
                "line": record["line"],
            },
        },
        ensure_ascii=False,
    )


def plain_line(message: "loguru.Message") -> str:
    record = message.record
    return f"{record['time']:YYYY-MM-DD HH:mm:ss.SSS} {record['level'].name:<7} {shortened(str(message).rstrip())}"


def shortened(text: str) -> str:
    """Beginning and end of a text that is too long: a traceback says what happened in its last line."""
    if len(text) <= LONGEST_TEXT:
        return text
    mark = f"\n[... {len(text) - LONGEST_TEXT} characters left out ...]\n"
    head = LONGEST_TEXT // 4
    return text[:head] + mark + text[head + len(mark) - LONGEST_TEXT :]


def write_to_stdout(render: Callable[["loguru.Message"], str]) -> Callable[["loguru.Message"], None]:
    def sink(message: "loguru.Message") -> None:
        # One write for each record: a reader of the pipe never sees a part of a line.
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), (render(message) + "\n").encode("utf-8", "backslashreplace"))

    return sink


class Flood:
    """Keeps one client whose requests are all refused from filling the log.

    Each line of code may warn BURST times in WINDOW_SECONDS; what is beyond that is left out, and the next warning of
    that line in a later window says how many were.
    """

    BURST = 50
    WINDOW_SECONDS = 10.0

    def __init__(self) -> None:
        self._windows: dict[tuple[str | None, int], tuple[float, int]] = {}

    def lets_pass(self, record: "loguru.Record") -> bool:
        if record["level"].no < logging.WARNING:
            return True
        place = (record["name"], record["line"])
        now = record["time"].timestamp()
        begin, count = self._windows.get(place, (now, 0))
        if now - begin >= self.WINDOW_SECONDS:
            if count > self.BURST:
                record["message"] += f" ({count - self.BURST} more like this were left out)"
            begin, count = now, 0
        self._windows[place] = (begin, count + 1)
        return count < self.BURST


class LibraryRecords(logging.Handler):
    """Hands records of the standard `logging` module on to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname in LEVELS
        logger.opt(exception=record.exc_info).log(
            record.levelname if known else record.levelno, "{}: {}", record.name, record.getMessage()
        )
