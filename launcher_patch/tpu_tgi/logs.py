"""The log: one line for each record, as text or as JSON, on stdout. Everything goes through loguru."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC

import loguru
from loguru import logger

from text_generation_server.errors import InvalidSettingError

# The stock launcher's levels, which are also the shard's, to loguru's.
LEVELS = {
    "TRACE": "DEBUG",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "SUCCESS": "INFO",
    "WARN": "WARNING",
    "WARNING": "WARNING",
    "ERROR": "ERROR",
    "CRITICAL": "CRITICAL",
}
OFF = "OFF"

# These speak of every connection and every file at level INFO.
CHATTY = ("uvicorn", "httpx", "httpx2", "httpcore", "urllib3")


def text_line(message: "loguru.Message") -> str:
    """`2026-01-31T12:00:00.000000Z  INFO text-generation-server: message`."""
    record = message.record
    return f"{timestamp(record)} {level_name(record):>5} {target(record)}: {str(message).rstrip()}"


def json_line(message: "loguru.Message") -> str:
    """The shape of the stock launcher's `--json-output`."""
    record = message.record
    fields = {"message": record["message"]}
    if record["exception"] is not None:
        # loguru writes the exception behind the message.
        fields["exception"] = str(message)[len(record["message"]) :].strip()
    return json.dumps(
        {
            "timestamp": timestamp(record),
            "level": level_name(record),
            "fields": fields,
            "target": target(record),
        },
        ensure_ascii=False,
    )


def timestamp(record: "loguru.Record") -> str:
    moment = record["time"].astimezone(UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def level_name(record: "loguru.Record") -> str:
    """The stock launcher says WARN."""
    name = record["level"].name
    return "WARN" if name == "WARNING" else name


def target(record: "loguru.Record") -> str:
    """Who speaks: the module, or what was bound for a record that another process or library made."""
    return str(record["extra"].get("target", record["name"]))


def to_stdout(line: Callable[["loguru.Message"], str]) -> Callable[["loguru.Message"], None]:
    """Writes to what is stdout at that moment: a progress bar puts itself in its place."""

    def sink(message: "loguru.Message") -> None:
        sys.stdout.write(line(message) + "\n")
        sys.stdout.flush()

    return sink


class LibraryRecords(logging.Handler):
    """Hands records of the standard `logging` module on to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = LEVELS.get(record.levelname, "INFO")
        bound = logger.bind(target=record.name).opt(exception=record.exc_info)
        bound.log(level, "{}", record.getMessage())


def level_of(filter_text: str) -> str:
    """The level that `--log-level` means, in capitals; of several, as in `info,text_generation_router=debug`, the
    most talkative, for there is one log here. Raises InvalidSettingError for anything else."""
    levels = [part.rpartition("=")[2].strip().upper() for part in filter_text.split(",")]
    for level in levels:
        if level not in LEVELS and level != OFF:
            raise InvalidSettingError(
                f"`--log-level {filter_text}` must be one of {', '.join([*LEVELS, OFF])}: "
                "`--log-level INFO` would work"
            )
    return min(levels, key=severity)


def severity(level: str) -> int:
    """Of two levels the one with the lower number says more."""
    return sys.maxsize if level == OFF else logger.level(LEVELS[level]).no


def configure(level: str, json_output: bool) -> None:
    """Everything that this process logs, libraries included, goes through one sink of loguru."""
    logger.remove()
    if level != OFF:
        # A format that adds nothing: the sink writes the line, and an exception follows the message.
        logger.add(
            to_stdout(json_line if json_output else text_line),
            level=LEVELS[level],
            format="{message}",
            backtrace=False,
            diagnose=False,
        )
    logging.basicConfig(level=logging.NOTSET, handlers=[LibraryRecords()], force=True)
    logging.captureWarnings(True)
    root = logging.CRITICAL + 1 if level == OFF else severity(level)
    logging.getLogger().setLevel(root)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(root, logging.WARNING))


def log_remarks(remarks: tuple[str, ...]) -> None:
    """What was found while the options were read, before there was a log."""
    for remark in remarks:
        logger.bind(target="tpu_tgi").warning("{}", remark)
