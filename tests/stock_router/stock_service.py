"""Starts the stock launcher as an operator would, and looks at it from outside."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stock_router.http_client import HttpClient
from stock_router.stock_programs import LAUNCHER, environment, program_directory

READY_SECONDS = 300.0
"""For loading and compiling on a machine that is busy otherwise."""

COLOURS = re.compile("\x1b\\[[0-9;]*m")


@dataclass
class Started:
    """A process and what it has printed so far."""

    process: subprocess.Popen[str]
    reader: threading.Thread = field(init=False)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    @property
    def log(self) -> str:
        return COLOURS.sub("", "".join(self.lines))

    def child(self, word: str) -> int:
        """Id of the process that this one started and whose command line has `word` as one of its words."""
        found = [child for child, words in self.children().items() if word in words]
        assert len(found) == 1, f"{word}: {self.children()}"
        return found[0]

    def children(self) -> dict[int, list[str]]:
        """Ids and command lines of the processes that this one has started."""
        return {child: words for child, parent, words in running_processes() if parent == self.process.pid}

    def exit_code(self, seconds: float = 30.0) -> int:
        """Waits for the end and for the last line."""
        code = self.process.wait(seconds)
        self.reader.join(seconds)
        return code

    def end(self) -> None:
        """Kills whatever is left of it, children first: a router does not notice that its launcher is gone."""
        if self.process.poll() is None:
            for child in self.children():
                os.kill(child, signal.SIGKILL)
            self.process.kill()
        self.exit_code()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))


@dataclass
class StockService:
    """A launcher that has started a shard and a router.

    Attributes:
        health_before_traffic: status of a health check that came before every other request.
    """

    launcher: Started
    http: HttpClient
    health_before_traffic: int = 0

    def wait_until_ready(self) -> None:
        """Returns when requests are served, which is after the warm-up."""
        wait_until(lambda: self.http.is_serving() or self.launcher.process.poll() is not None, READY_SECONDS)
        assert self.launcher.process.poll() is None, self.launcher.log
        self.health_before_traffic = self.http.health()

    def stop(self) -> float:
        """Ends the service as an operator would, and returns the seconds that it took."""
        started = time.monotonic()
        self.launcher.process.terminate()
        assert self.launcher.exit_code(60) == 0, self.launcher.log
        return time.monotonic() - started


@contextmanager
def launched(
    directory: Path,
    model: str | Path,
    *flags: str,
    router: str,
    server: list[str],
    variables: dict[str, str] | None = None,
) -> Iterator[StockService]:
    """Runs the launcher in `directory`; does not wait until it is ready. `server` is the shard's command."""
    port = free_port()
    command = [LAUNCHER, "--model-id", str(model), "--hostname", "127.0.0.1", "--port", str(port)]
    # The port is bound and left again while the router starts, and 9000 may be taken.
    command += ["--prometheus-port", str(free_port()), "--usage-stats", "off"]
    command += ["--shard-uds-path", str(directory / "shard"), *flags]
    programs = program_directory(directory, router, server)
    launcher = start(command, directory, environment(variables or {}, programs))
    with HttpClient(port) as http:
        try:
            yield StockService(launcher, http)
        finally:
            launcher.end()


def start(command: list[str], directory: Path, variables: dict[str, str]) -> Started:
    """`directory` must be writable: the router keeps a copy of the tokenizer in it."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Started(process)


def running_processes() -> Iterator[tuple[int, int, list[str]]]:
    """Id, parent's id and command line of every process."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "status").read_text()
            words = (entry / "cmdline").read_text().split("\0")
        except OSError:  # it has ended meanwhile
            continue
        parent = re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)
        assert parent is not None
        yield int(entry.name), int(parent[1]), words


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
