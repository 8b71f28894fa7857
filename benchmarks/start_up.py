"""How long does the service take to start, and how much memory does it hold? (`make bench`)

    python -m benchmarks.start_up models/SmolLM2-135M-Instruct

`tpu-tgi` is started with an empty compile cache, and again with what the first start left there. Of each start:
- ready: seconds from the command until `/health` answers 200.
- warm-up: seconds of that in which programs come from the cache, or are recorded, compiled, and run once.
- memory, after one request: of the shard and of the front, resident (RSS). Beyond weights and cache: both, less
  what these two take as the shard's log says. On a CPU they lie in the shard's memory.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

from benchmarks.report import table

ABOUT_PROGRAMS = re.compile(r"^(\S+) +INFO text-generation-server: (?:Preparing \d+ programs|Warm-up \d)")


@dataclass(frozen=True)
class Start:
    """Seconds, and gigabytes (1e9)."""

    ready: float
    warm_up: float
    shard: float
    front: float
    weights: float
    cache: float

    @property
    def beyond(self) -> float:
        return self.shard + self.front - self.weights - self.cache


def measure(model: Path, compile_cache: Path, length: int, slots: int) -> Start:
    """One start, which ends before it returns. RuntimeError, with the log, if it fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HF_SEQUENCE_LENGTH": str(length),
        "HF_BATCH_SIZE": str(slots),
        "TPU_TGI_COMPILE_CACHE": str(compile_cache),
    }
    command = [str(Path(sys.executable).with_name("tpu-tgi")), "--model-id", str(model)]
    command += ["--port", str(port), "--hostname", "127.0.0.1"]
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            ready = wait_until_ready(process, port) - started
            body = {"inputs": "The sky is", "parameters": {"max_new_tokens": 8}}
            httpx.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=60).raise_for_status()
            (shard,) = children(process.pid)
            shard_memory, front_memory = resident(shard), resident(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            log.seek(0)
            text = log.read()
            if process.returncode:
                print(text, file=sys.stderr)
    return Start(
        ready,
        warm_up_seconds(text),
        shard_memory,
        front_memory,
        weights=float(found(r"Weights: ([\d.]+) GB in", text)),
        cache=float(found(r"KV cache (\d+) MiB", text)) * 2**20 / 1e9,
    )


def warm_up_seconds(log: str) -> float:
    times = [
        datetime.fromisoformat(match[1]) for line in log.splitlines() if (match := ABOUT_PROGRAMS.match(line))
    ]
    return (times[-1] - times[0]).total_seconds()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> float:
    """When it was, by `time.monotonic`."""
    while process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                return time.monotonic()
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"tpu-tgi ended with code {process.returncode}; its log stands below")


def children(pid: int) -> list[int]:
    """The processes that it started and that run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> float:
    """Gigabytes."""
    return int(found(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())) * 1024 / 1e9


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"{pattern} is not in the log:\n{text}")
    return match[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a directory with a checkpoint")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--slots", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        starts = [measure(arguments.model, Path(cache), arguments.length, arguments.slots) for _ in range(2)]
    rows = [
        [name, *(f"{getattr(start, field):.2f}" for start in starts)]
        for name, field in (
            ("ready, s", "ready"),
            ("of that warm-up, s", "warm_up"),
            ("shard, GB", "shard"),
            ("front, GB", "front"),
            ("weights, GB", "weights"),
            ("cache, GB", "cache"),
            ("beyond weights and cache, GB", "beyond"),
        )
    ]
    print(table(["", "first start", "second start"], rows))


if __name__ == "__main__":
    main()
