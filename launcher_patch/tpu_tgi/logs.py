"""The log: one line for each record, as text or as JSON, on stdout."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import loguru

from text_generation_server.errors import InvalidSettingError

# The stock launcher's levels, which are also the shard's.
LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "SUCCESS": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "OFF": logging.CRITICAL + 1,
}


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000000Z  INFO text-generation-server: message`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{timestamp(record)} {record.levelname:>5} {record.name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The shape of the stock launcher's `--json-output`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            {
                "timestamp": timestamp(record),
                "level": record.levelname,
                "fields": fields,
                "target": record.name,
            },
            ensure_ascii=False,
        )


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to what is stdout at that moment: a progress bar puts itself in its place."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Fixed."""


def timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def level_of(filter_text: str) -> str:
    """The level that `--log-level` means, in capitals; of several, as in `info,text_generation_router=debug`, the
    most talkative, for there is one log here. Raises InvalidSettingError for anything else."""
    levels = [part.rpartition("=")[2].strip().upper() for part in filter_text.split(",")]
    for level in levels:
        if level not in LEVELS:
            raise InvalidSettingError(
                f"`--log-level {filter_text}` must be one of {', '.join(LEVELS)}: `--log-level INFO` would work"
            )
    return min(levels, key=lambda level: LEVELS[level])


def configure(level: str, json_output: bool) -> None:
    """Everything that this process logs, libraries included, goes through one handler."""
    logging.addLevelName(logging.WARNING, "WARN")
    handler = StdoutHandler()
    handler.setFormatter(JsonFormatter() if json_output else TextFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    forward_loguru(level)
    # These speak of every connection and every file at level INFO.
    for chatty in ("uvicorn", "httpx", "httpx2", "httpcore", "urllib3"):
        logging.getLogger(chatty).setLevel(max(LEVELS[level], logging.WARNING))


def forward_loguru(level: str) -> None:
    """What the parts of the shard's package say that run in this process comes into the same log."""
    loguru.logger.remove()
    loguru.logger.add(
        lambda message: logging.getLogger("tpu_tgi.hub").log(
            LEVELS.get(message.record["level"].name, logging.INFO), "%s", message.rstrip()
        ),
        level=0 if level == "OFF" else LEVELS[level],
        format="{message}",
    )


def log_remarks(remarks: tuple[str, ...]) -> None:
    """What was found while the options were read, before there was a log."""
    for remark in remarks:
        logging.getLogger("tpu_tgi").warning("%s", remark)
