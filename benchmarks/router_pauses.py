"""The longest pause of the router's event loop, without and with a hostile client: for so long nobody else is served.

    PYTHONPATH=tests python -m benchmarks.router_pauses MODEL

The router is the embedded one, in front of the tests' fake shard, with the tokenizer of MODEL. The hostile client is a
process of its own: bodies of 2 MB, rubbish, floods of refusals, and hanging up.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from front.fake_shard import FakeShard
from front.hostile import hostile_client
from front.loop_pause import longest_pause
from front.running_front import running_front
from tpu_tgi.logs import configure
from tpu_tgi.router.settings import RouterSettings

SECONDS = 10.0
STREAM_TOKENS = 400
BATCH_SIZE, MAX_LENGTH = 4, 512


async def attack(url: str) -> None:
    """Until the process is ended."""
    async with hostile_client(url):
        await asyncio.sleep(10 * SECONDS)


def stream(client: httpx.Client) -> None:
    """One answer after the other, as a client that the pauses would hurt."""
    body = {"inputs": "a", "parameters": {"max_new_tokens": STREAM_TOKENS}}
    with client.stream("POST", "/generate_stream", json=body) as response:
        for _ in response.iter_lines():
            pass


def measure(model: Path, *, hostile: bool) -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as directory:
        shard = FakeShard(
            f"{directory}/shard-0", BATCH_SIZE, MAX_LENGTH, step_seconds=SECONDS / STREAM_TOKENS
        )
        settings = RouterSettings(model_id=str(model), compute_type="1-fake")
        with running_front(shard, settings) as front:
            command = [
                sys.executable,
                "-m",
                "benchmarks.router_pauses",
                "--attack",
                str(front.client.base_url),
            ]
            attacker = subprocess.Popen(command) if hostile else None
            try:
                with longest_pause(front.loop) as pause:
                    stream(front.client)
            finally:
                if attacker is not None:
                    attacker.kill()
                    attacker.wait()
            return pause.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--attack", metavar="URL", help="be the hostile client of a router at this address")
    arguments = parser.parse_args()
    if arguments.attack is not None:
        asyncio.run(attack(arguments.attack))
        return
    if arguments.model is None:
        parser.error("a MODEL is needed: a directory with a tokenizer")
    configure("OFF", json_output=False)
    print(f"Longest pause of the router's event loop, over {SECONDS:.0f} s of a stream:")
    for name, hostile in (("alone", False), ("beside a hostile client", True)):
        print(f"  {name:<24} {1000 * measure(arguments.model, hostile=hostile):6.1f} ms")


if __name__ == "__main__":
    main()
