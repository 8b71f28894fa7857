"""Stands in for the command `text-generation-server`: the launcher's contract around a fake shard."""

import asyncio
import json
import os
import signal
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from front.fake_shard import FakeShard


def log(level: str, text: str) -> None:
    """One record as loguru serialises it, as far as launchers read it."""
    sys.stdout.write(json.dumps({"text": f"{text}\n", "record": {"level": {"name": level}}}) + "\n")
    sys.stdout.flush()


async def serve(socket_path: str) -> None:
    """Serves until SIGTERM, which FAKE_IGNORES_SIGTERM turns into a wish."""
    stop = asyncio.Event()
    stubborn = "FAKE_IGNORES_SIGTERM" in os.environ
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (lambda: None) if stubborn else stop.set)
    shard = FakeShard(
        socket_path,
        batch_size=int(os.environ.get("MAX_BATCH_SIZE") or os.environ.get("FAKE_BATCH_SIZE", "4")),
        max_length=int(os.environ.get("MAX_TOTAL_TOKENS", "64")),
        step_seconds=0.02,
    )
    await shard.start()
    log("SUCCESS", f"loaded by process {os.getpid()}")
    await stop.wait()
    await shard.stop()


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("command", choices=["serve", "download-weights"])
    parser.add_argument("model_id")
    parser.add_argument("--uds-path")
    parser.add_argument("--logger-level", required=True)
    parser.add_argument("--json-output", action="store_true", required=True)
    for option in ("--dtype", "--revision", "--max-input-tokens", "--extension"):
        parser.add_argument(option)
    arguments = parser.parse_args()
    log("INFO", f"called with {' '.join(sys.argv[1:])}")
    if (failure := os.environ.get("FAKE_FAILURE")) is not None:
        sys.stderr.write(f"Traceback: {failure}\n")
        sys.exit(3)
    if "FAKE_NEVER_READY" in os.environ:
        signal.pause()
    if (programs := os.environ.get("FAKE_PROGRAMS")) is not None:
        log("INFO", f"Warm-up {programs}: decode of 64 tokens")
    while (gate := os.environ.get("FAKE_WAITS_FOR")) is not None and not Path(gate).exists():
        time.sleep(0.02)
    if arguments.command == "serve":
        asyncio.run(serve(f"{arguments.uds_path}-0"))


if __name__ == "__main__":
    main()
