"""The process `text-generation-server`: started, watched and stopped."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from loguru import logger

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.child import end_with_parent
from tpu_tgi.embedded.shard_log import LINE_LIMIT, ShardLog
from tpu_tgi.embedded.warming_up import WarmUp

EXECUTABLE = "text-generation-server"
POLL_SECONDS = 0.1
REMINDER_SECONDS = 10.0

# The processes that run now, each of which leads a group.
RUNNING: set[int] = set()


class ShardDiedError(RuntimeError):
    """The shard ended by itself; the message says how."""


class ShardProcess:
    """One run of `text-generation-server`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._log = ShardLog()
        if process.stdout is None or process.stderr is None:
            raise ValueError("The output of the shard must be piped")
        self._readers = [
            asyncio.create_task(self._log.forward(process.stdout)),
            asyncio.create_task(self._log.keep(process.stderr)),
        ]

    @property
    def warm_up(self) -> WarmUp:
        """How far that is, as the log tells it."""
        return self._log.warm_up

    @classmethod
    async def start(cls, arguments: list[str], environment: Mapping[str, str]) -> Self:
        """Raises InvalidSettingError if there is no such program."""
        try:
            process = await asyncio.create_subprocess_exec(
                executable(environment),
                *arguments,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
                # Ctrl-C in a terminal is for the launcher, which stops the shard after the last answer.
                process_group=0,
                preexec_fn=end_with_parent,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise InvalidSettingError(
                f"`{EXECUTABLE}` is neither in PATH nor beside {sys.executable}: install the package again"
            ) from error
        RUNNING.add(process.pid)
        return cls(process)

    async def wait_for_socket(self, path: str) -> None:
        """Returns when the socket exists, which says that the model is loaded. There is no time limit."""
        begin = last_reminder = time.monotonic()
        while not Path(path).exists():
            await asyncio.sleep(POLL_SECONDS)
            now = time.monotonic()
            # Not between the lines of a shard that tells itself how far it is.
            if now - max(last_reminder, self._log.last_line) >= REMINDER_SECONDS:
                logger.info("Waiting for the shard to be ready: {:.0f} s", now - begin)
                last_reminder = now

    async def exited(self) -> None:
        """Waits for the end, which is never expected: raises ShardDiedError after logging stderr."""
        code = await self.finished()
        self.log_stderr()
        raise ShardDiedError(f"The shard has died: {ending(code)}")

    def log_stderr(self) -> None:
        """Logs what the end of stderr has beyond the errors that were logged."""
        self._log.log_stderr()

    async def finished(self) -> int:
        """The exit code, after all output was read; negative is a signal."""
        code = await self._process.wait()
        RUNNING.discard(self._process.pid)
        # A worker of the shard may hold the pipes open for longer than the shard lives.
        await asyncio.wait(self._readers, timeout=1)
        return code

    async def stop(self, timeout: float) -> None:
        """SIGTERM, and SIGKILL for its whole group after `timeout` seconds. It may be gone already."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), timeout)
            except TimeoutError:
                logger.warning("The shard did not stop within {:.0f} s and is killed", timeout)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


def kill_all() -> None:
    """Ends every process that was started and still runs, with its group."""
    for pid in RUNNING:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def executable(environment: Mapping[str, str]) -> str:
    """The program in PATH, or the one that was installed beside this Python: its environment need not be active."""
    found = shutil.which(EXECUTABLE, path=environment.get("PATH", os.defpath))
    return found or str(Path(sys.executable).with_name(EXECUTABLE))


def ending(code: int) -> str:
    """What the exit code of a process says; real-time signals have no name."""
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"
