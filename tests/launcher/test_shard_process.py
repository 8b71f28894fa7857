"""What the launcher makes of the output and the end of the shard, and of keys that must not show."""

import asyncio
import logging
import time
from collections import deque
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start
from tpu_tgi.embedded.launcher import SHARD_SECONDS, left_for_shard
from tpu_tgi.embedded.shard_log import forward, keep
from tpu_tgi.embedded.shard_process import ending
from tpu_tgi.embedded.warming_up import WarmUp
from tpu_tgi.router.settings import RouterSettings


def test_a_line_that_is_too_long_does_not_stop_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def read() -> None:
        stream = asyncio.StreamReader(limit=100)
        stream.feed_data(b"x" * 500 + b"\nWarm-up 1/2: decode\n")
        stream.feed_eof()
        await forward(stream, WarmUp())

    asyncio.run(read())
    assert "a line that was too long is left out" in caplog.text
    assert "Warm-up 1/2: decode" in caplog.text


def test_stderr_is_shown_at_debug_while_the_shard_lives(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    kept: deque[str] = deque()

    async def read() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"waiting for the chip\n")
        stream.feed_eof()
        await keep(stream, kept)

    asyncio.run(read())
    assert list(kept) == ["waiting for the chip"]
    assert "stderr: waiting for the chip" in caplog.text


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
