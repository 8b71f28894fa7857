"""The shard's output, passed on line by line in a readable form."""

import asyncio
import json
from collections import deque

import loguru

from tpu_tgi.embedded.warming_up import WarmUp
from tpu_tgi.logs import LEVELS

# The records of the shard have its name, as with the stock launcher.
logger = loguru.logger.bind(target="text-generation-server")

# Enough for any traceback.
KEPT_LINES = 200

# Longer lines are cut off by asyncio with an error, so this is far above any record.
LINE_LIMIT = 2**22


def forward_line(line: str) -> str:
    """Logs one line of the shard's stdout: the text of a JSON record at its level, anything else as it is.

    Returns that text.
    """
    line = line.rstrip()
    if not line:
        return line
    try:
        record = json.loads(line)
        text, level = str(record["text"]).rstrip(), LEVELS[record["record"]["level"]["name"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        text, level = line, "INFO"
    logger.log(level, "{}", text)
    return text


async def forward(stream: asyncio.StreamReader, warm_up: WarmUp) -> None:
    """Forwards stdout until it closes; `warm_up` sees every line."""
    while line := await next_line(stream):
        warm_up.notice(forward_line(line.decode(errors="replace")))


async def keep(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    """Keeps the last lines of stderr, which are logged if the shard fails; until then at level DEBUG."""
    while line := await next_line(stream):
        lines.append(line.decode(errors="replace").rstrip())
        logger.debug("stderr: {}", lines[-1])


async def next_line(stream: asyncio.StreamReader) -> bytes:
    """Empty at the end. A line beyond the limit of the stream is replaced: somebody has to read on, or the shard
    would wait for that for ever."""
    try:
        return await stream.readline()
    except ValueError:
        return b"(a line that was too long is left out)\n"
