"""`tpu-tgi` as somebody at a terminal has it."""

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from front.launched import clean_environment
from front.running_front import wait_until

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

COMMAND = [sys.executable, "-m", "tpu_tgi"]


class Terminal:
    """A process with a terminal, and everything that it has shown."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        # The end of the last process that has the terminal open is an error here.
        with suppress(OSError):
            while part := os.read(self._screen, 65536):
                self._shown += part

    @property
    def shown(self) -> str:
        return ESCAPES.sub("", self._shown.decode(errors="replace"))

    def wait_for(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        os.close(self._screen)


def program(name: str) -> str:
    """Its file: the PATH of what is started may not have it."""
    return shutil.which(name) or name


@contextmanager
def terminal(*words: str, environment: dict[str, str] | None = None) -> Iterator[Terminal]:
    """Runs `tpu-tgi` with these words."""
    screen, end = pty.openpty()
    process = subprocess.Popen(
        # Ctrl-C is for the session that has the terminal, also where the tests run in the background, which ignores it.
        [program("env"), "--default-signal=INT", program("setsid"), "--ctty", *COMMAND, *words],
        stdin=end,
        stdout=end,
        stderr=end,
        env=clean_environment()
        | {"TERM": "xterm", "COLUMNS": "200", "PATH": "/usr/bin:/bin"}
        | (environment or {}),
    )
    os.close(end)
    opened = Terminal(process, screen)
    try:
        yield opened
    finally:
        opened.close()


def exit_code(opened: Terminal) -> int:
    wait_until(lambda: opened.process.poll() is not None, 20)
    code = opened.process.returncode
    assert code is not None
    return code
