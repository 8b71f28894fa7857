"""A prototype of one model over two hosts: the first process serves and the second follows.

    echo '[[5, 6, 7], 20]' | python -m benchmarks.two_hosts MODEL

takes a prompt and a number of tokens on each line, and prints the tokens that the model gives.

Each process has its chips, and `jax.distributed` makes one mesh of all. What runs on a mesh must be started by all its
processes, in one order. An engine does nothing but what it is told, so it is enough that the second one is told the
same: the first sends each call, before it carries it out itself.

By itself it starts both processes on this machine, with two virtual devices of the CPU each. With --coordinator and
--rank it is one of the two, and takes the devices that there are: docs/deploy/gke-two-hosts.yaml starts it so on two
hosts. The calls travel to the port after the coordinator's, pickled, between processes that know TWO_HOSTS_KEY. What is
missing for a service stands in docs/scaling.md.
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

PROCESSES, CHIPS_EACH = 2, 2
KEY = "TWO_HOSTS_KEY"
"""An environment variable: a secret of both processes, since whoever can send calls can run anything."""

ONLY_ASK = ("info", "statistics", "check_health")
"""Of an engine, what starts nothing on the device and changes nothing."""


class Leading:
    """An engine, or a step of one, whose calls another process carries out too."""

    def __init__(self, led: Any, tell: Callable[[str, tuple[Any, ...], dict[str, Any]], None]) -> None:
        self._led = led
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._led, name)
        if name in ONLY_ASK:
            return own

        def call(*arguments: Any, **options: Any) -> Any:
            self._tell(name, arguments, options)
            result = own(*arguments, **options)
            return Leading(result, self._tell) if name == "start_step" else result

        return call


def follow(engine: Any, connection: Connection) -> None:
    """Does what the first process does, until it ends."""
    step = None
    while True:
        try:
            name, arguments, options = connection.recv()
        except EOFError:
            return
        result = getattr(step if name == "choose" else engine, name)(*arguments, **options)
        step = result if name == "start_step" else step


def loaded(model: Path, rank: int, coordinator: str) -> Any:
    """The engine on the chips of both processes."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, PROCESSES, rank)
    from text_generation_server.loading.engine import EngineLoader, EngineOptions
    from text_generation_server.runtime.cache import ProgramCache
    from text_generation_server.runtime.mesh import mesh_of

    mesh = mesh_of(jax.devices())
    options = EngineOptions(batch_size=4, max_length=64, chips=mesh.size, skip_warmup=True)
    return EngineLoader(model, options, ProgramCache(None), mesh).load()


def answer(engine: Any, prompt: list[int], count: int) -> list[int]:
    from benchmarks.prompts import prefill
    from text_generation_server.sampling.parameters import SamplingParameters

    prefill(engine, 0, prompt, SamplingParameters())
    pending = [engine.start_step().choose() for _ in range(count)]
    engine.release(0)
    return [token.token_id for each in pending for token in each.read()[0]]


def lead(engine: Any, connection: Connection) -> None:
    leading = Leading(engine, lambda *call: connection.send(call))
    for line in sys.stdin:
        prompt, count = json.loads(line)
        print(json.dumps(answer(leading, prompt, count)), flush=True)
    connection.close()


def start(model: Path) -> int:
    """Both processes; the exit code of the first that failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={CHIPS_EACH}",
        KEY: secrets.token_hex(),
    }
    command = [sys.executable, "-m", "benchmarks.two_hosts", str(model), "--coordinator", f"127.0.0.1:{port}"]
    follower = subprocess.Popen([*command, "--rank", "1"], env=environment, stdin=subprocess.DEVNULL)
    leader = subprocess.run([*command, "--rank", "0"], env=environment)
    return leader.returncode or follower.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--coordinator", metavar="HOST:PORT", help=f"with --rank, and a secret in {KEY}")
    parser.add_argument("--rank", type=int, choices=range(PROCESSES))
    arguments = parser.parse_args()
    if arguments.coordinator is None:
        sys.exit(start(arguments.model))
    host, _, port = arguments.coordinator.rpartition(":")
    address, key = (host, int(port) + 1), os.environ[KEY].encode()
    if arguments.rank == 0:
        with Listener(address, authkey=key) as listener:
            engine = loaded(arguments.model, 0, arguments.coordinator)
            lead(engine, listener.accept())
    else:
        engine = loaded(arguments.model, 1, arguments.coordinator)
        with Client(address, authkey=key) as connection:
            follow(engine, connection)


if __name__ == "__main__":
    main()
