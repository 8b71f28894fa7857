"""The shard's output, passed on line by line in a readable form."""

import asyncio
import json
import time
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


class ShardLog:
    """Reads both streams of one run of the shard.

    Attributes:
        warm_up: sees every line of stdout.
        last_line: when the last line of stdout came, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.warm_up = WarmUp()
        self.last_line = time.monotonic()
        self._stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._logged_errors: deque[str] = deque(maxlen=KEPT_LINES)

    async def forward(self, stdout: asyncio.StreamReader) -> None:
        """Logs stdout until it closes."""
        while line := await next_line(stdout):
            self.last_line = time.monotonic()
            self.forward_line(line.decode(errors="replace"))

    def forward_line(self, line: str) -> None:
        """Logs the text of a JSON record at its level, anything else as it is."""
        line = line.rstrip()
        if not line:
            return
        try:
            record = json.loads(line)
            text, level = str(record["text"]).rstrip(), LEVELS[record["record"]["level"]["name"]]
        except (ValueError, TypeError, KeyError, AttributeError):
            text, level = line, "INFO"
        logger.log(level, "{}", text)
        self.warm_up.notice(text)
        if level in ("ERROR", "CRITICAL"):
            self._logged_errors.extend(text.splitlines())

    async def keep(self, stderr: asyncio.StreamReader) -> None:
        """Keeps the last lines of stderr, which are logged if the shard fails; until then at level DEBUG."""
        while line := await next_line(stderr):
            self._stderr.append(line.decode(errors="replace").rstrip())
            logger.debug("stderr: {}", self._stderr[-1])

    def log_stderr(self) -> None:
        """Logs what was kept as errors, but for the lines that came as errors on stdout: the shard writes the reason of
        its end to both, since the stock launcher prints stderr at the end."""
        logged = {line.strip() for line in self._logged_errors}
        for line in self._stderr:
            if line.removeprefix("Error: ").strip() not in logged:
                logger.error("stderr: {}", line)


async def next_line(stream: asyncio.StreamReader) -> bytes:
    """Empty at the end. A line beyond the limit of the stream is replaced: somebody has to read on, or the shard
    would wait for that for ever."""
    try:
        return await stream.readline()
    except ValueError:
        return b"(a line that was too long is left out)\n"
