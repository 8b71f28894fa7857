"""Starts the command line of the shard in a process of its own, and looks at it from outside."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from text_generation_server.pb.service_v3_pb2_grpc import TextGenerationServiceStub

from .spelling_model import spelling_tokenizer

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "wire.fake_shard"]
SECONDS = 30
"""Enough for a start on a busy machine."""


def environment(variables: dict[str, str] | None = None) -> dict[str, str]:
    """This process's and its modules, without what would set the shape of a shard, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MAX_", "LOG_"))}
    modules = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    return kept | {"PYTHONPATH": modules, "HF_HUB_OFFLINE": "1"} | (variables or {})


def spelling_checkpoint(directory: Path, *marks: str) -> Path:
    """What launchers and routers read of a model, and `marks` for `fake_shard.load_engine`."""
    directory.mkdir(exist_ok=True)
    spelling_tokenizer().save_pretrained(directory)
    for name in ("config.json", "model.safetensors", *marks):
        (directory / name).write_text("{}")
    return directory


def run_to_its_end(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(variables), capture_output=True, text=True, timeout=SECONDS
    )


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving(
    directory: Path, *arguments: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A shard whose socket exists: the launcher would call it ready."""
    uds_path = directory / "shard"
    socket_path = directory / "shard-0"
    model = spelling_checkpoint(directory / "model")
    command = ("serve", str(model), "--uds-path", str(uds_path), *arguments)
    with started(*command, **variables) as process:
        wait_until(lambda: socket_path.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process, socket_path


@contextmanager
def connected(socket_path: Path) -> Iterator[Any]:
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        yield TextGenerationServiceStub(channel)


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def launcher_records(stdout: str) -> list[tuple[str, str]]:
    """Level and text of each line, read as the launcher does; a line that is not JSON fails the test."""
    records = [json.loads(line) for line in stdout.splitlines()]
    return [(record["record"]["level"]["name"], record["text"]) for record in records]
