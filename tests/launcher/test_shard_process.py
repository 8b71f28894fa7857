"""What the launcher makes of the output and the end of the shard, and of keys that must not show."""

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start
from tpu_tgi.embedded.launcher import SHARD_SECONDS, left_for_shard
from tpu_tgi.embedded.shard_log import ShardLog
from tpu_tgi.embedded.shard_process import ending
from tpu_tgi.router.settings import RouterSettings


def stream_of(content: bytes, limit: int = 2**16) -> asyncio.StreamReader:
    """To be made where a loop runs."""
    stream = asyncio.StreamReader(limit=limit)
    stream.feed_data(content)
    stream.feed_eof()
    return stream


def test_a_line_that_is_too_long_does_not_stop_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def read() -> None:
        stream = stream_of(b"x" * 500 + b"\nWarm-up 1/2: decode\n", limit=100)
        await ShardLog().forward(stream)

    asyncio.run(read())
    assert "a line that was too long is left out" in caplog.text
    assert "Warm-up 1/2: decode" in caplog.text


def test_stderr_is_shown_at_debug_while_the_shard_lives(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def read() -> None:
        await ShardLog().keep(stream_of(b"waiting for the chip\n"))

    asyncio.run(read())
    assert "stderr: waiting for the chip" in caplog.text


def test_what_the_shard_said_on_both_streams_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    reason = "HF_BATCH_SIZE=5000 needs 9 GiB"
    record = {"text": f"{reason}\n", "record": {"level": {"name": "ERROR"}}}

    async def read() -> None:
        log = ShardLog()
        await log.forward(stream_of(json.dumps(record).encode()))
        await log.keep(stream_of(f"a library complains\nError: {reason}\n".encode()))
        log.log_stderr()

    asyncio.run(read())
    errors = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert errors == [reason, "stderr: a library complains"]


@pytest.mark.parametrize(
    ("code", "said"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")]
)
def test_every_end_of_the_shard_has_words(code: int, said: str) -> None:
    assert ending(code) == said


def test_keys_do_not_show(tmp_path: Path) -> None:
    assert "secret" not in repr(RouterSettings(model_id="a", api_key="secret", api_keys=("secret",)))
    file = tmp_path / "keys"
    file.write_text("secret\n")
    (tmp_path / "model").mkdir()
    for words in (["--api-key", "secret"], ["--api-key-file", str(file)]):
        outcome = Outcome(
            start(
                install(tmp_path / "bin"),
                tmp_path,
                str(tmp_path / "model"),
                "--dry-run",
                "--port",
                "0",
                *words,
            )
        )
        assert outcome.exit_code == 0, outcome.output
        assert "secret" not in outcome.output


def test_answers_and_shard_share_the_time_for_ending() -> None:
    now = time.monotonic()
    assert left_for_shard(90, None) == 90
    assert 69 < left_for_shard(90, now - 20) <= 70
    assert left_for_shard(90, now - 89) == SHARD_SECONDS
    assert left_for_shard(2, now - 2) == 2
