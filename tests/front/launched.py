"""`tpu-tgi` as a process of its own, in front of a fake `text-generation-server`."""

import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from front.running_front import wait_until

TESTS = Path(__file__).parents[1]
EXIT_SECONDS = 10.0


@dataclass
class Launched:
    """A running `tpu-tgi`; its output is collected in `lines`."""

    process: subprocess.Popen[str]
    port: int
    socket_path: Path
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def shard_pid(self) -> int:
        """What the fake server says, which is known after its end, too."""
        found = re.search(r"loaded by process (\d+)", self.output)
        assert found is not None
        return int(found[1])

    @property
    def child_pid(self) -> int:
        """The process that runs now, whatever the server is."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def wait_until_ready(self) -> None:
        wait_until(lambda: "Ready: " in self.output or self.process.poll() is not None, 20)
        assert self.process.poll() is None, self.output

    def wait_until_answering(self) -> None:
        """Returns when there is HTTP, whatever it says."""
        wait_until(lambda: self.answers() or self.process.poll() is not None, 20)
        assert self.process.poll() is None, self.output

    def answers(self) -> bool:
        try:
            httpx.get(f"{self.url}/health")
        except httpx.ConnectError:
            return False
        return True

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Waits for the end, and for the last line."""
        code = self.process.wait(EXIT_SECONDS)
        wait_until(lambda: not any(thread.name == self.reader_name for thread in threading.enumerate()))
        return code

    @property
    def reader_name(self) -> str:
        return f"output of {self.process.pid}"

    def read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))


@contextmanager
def launched(
    directory: Path,
    model_id: str,
    *options: str,
    environment: dict[str, str] | None = None,
    server: str = "front.fake_text_generation_server",
) -> Iterator[Launched]:
    """Starts `tpu-tgi` with a free port and a socket in `directory`; kills it at the end if it still runs.

    Args:
        server: the module that stands in for the command `text-generation-server`.
    """
    socket_path = directory / "shard"
    port = free_port()
    command = [sys.executable, "-m", "tpu_tgi", "--model-id", model_id, "--port", str(port)]
    command += ["--hostname", "127.0.0.1", "--shard-uds-path", str(socket_path), *options]
    process = subprocess.Popen(
        command,
        env=clean_environment() | {"PATH": path_with_server(directory, server)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Launched(process, port, Path(f"{socket_path}-0"))
    reader = threading.Thread(target=running.read, name=running.reader_name)
    reader.start()
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()


def clean_environment() -> dict[str, str]:
    """Without the options of a launcher that may run these tests."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}


def path_with_server(directory: Path, server: str) -> str:
    """A PATH that holds nothing but `text-generation-server`, which runs the module `server`."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    script = programs / "text-generation-server"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {server} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(programs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
