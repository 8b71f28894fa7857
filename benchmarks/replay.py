"""Times recorded programs with JAX alone: on a machine that has an accelerator, and neither torch nor a checkpoint.

    python -m benchmarks.replay record models/SmolLM2-135M-Instruct out/replay --batch-size 8 --max-length 1024
    python -m benchmarks.replay run out/replay

The first command needs torch and writes one file for each program of a decode step and of a piece. The second needs
`jax`, `ml_dtypes` and this source tree; weights are random. It runs on whatever JAX finds (CPU, CUDA, TPU).

For each program it prints the milliseconds until the call returns (host) and until the result is there (device), and
for the decode step those of both programs in a loop, with two steps in flight as in service.
"""

import argparse
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np

from text_generation_server.lowering.lowered import LoweredProgram, Parameter
from text_generation_server.runtime.executable import Executable, compile_program
from text_generation_server.runtime.mesh import DeviceMesh, open_mesh

REPETITIONS = 20


def record(model: Path, destination: Path, batch_size: int, max_length: int, dtype: str) -> None:
    from text_generation_server.engine.buckets import decode_lengths, piece_shapes
    from text_generation_server.loading.engine import EngineLoader, EngineOptions
    from text_generation_server.lowering.here import LoweringHere
    from text_generation_server.lowering.request import ProgramOptions
    from text_generation_server.runtime.cache import ProgramCache
    from text_generation_server.sampling.parameters import WatermarkStrength
    from text_generation_server.settings import ACCELERATOR_CHUNK

    lowering = LoweringHere()
    loader = EngineLoader(
        model,
        EngineOptions(dtype=dtype, prefill_chunk=ACCELERATOR_CHUNK),
        ProgramCache(None),
        lowering=lowering,
    )
    options = ProgramOptions(loader.shape(batch_size, max_length), WatermarkStrength(), exact_float32=False)
    piece = piece_shapes(batch_size, max_length, ACCELERATOR_CHUNK)[-1]
    names = [f"extend {piece}", f"forward {decode_lengths(max_length)[0]}", "choose none"]
    destination.mkdir(parents=True, exist_ok=True)
    for program in lowering.lower(options, names):
        (destination / f"{program.name.replace(' ', '-')}.lowered").write_bytes(program.to_bytes())


def random_array(parameter: Parameter, chance: np.random.Generator) -> np.ndarray:
    kind = np.dtype(parameter.dtype)
    if kind.kind in "iub":
        return np.ones(parameter.shape, kind)
    return (chance.standard_normal(parameter.shape, dtype=np.float32) * 0.02).astype(kind)


class Replayed:
    """Programs of one engine, on random weights and a random state."""

    def __init__(self, files: list[Path], mesh: DeviceMesh) -> None:
        programs = [LoweredProgram.from_bytes(file.read_bytes()) for file in files]
        chance = np.random.default_rng(0)
        weights: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.executables: dict[str, Executable] = {}
        for program in programs:
            for parameter in program.parameters:
                known = weights if parameter.source == "weight" else self.state
                if parameter.source != "constant" and parameter.name not in known:
                    known[parameter.name] = mesh.send(random_array(parameter, chance))
            started = time.perf_counter()
            self.executables[program.name] = compile_program(program, mesh)
            print(f"{program.name}: compiled in {time.perf_counter() - started:.1f} s")
        for executable in self.executables.values():
            executable.bind(weights)

    def run(self, name: str) -> dict[str, Any]:
        results = self.executables[name].run(self.state, {})
        self.state.update(results)
        return results

    def times(self, name: str) -> tuple[float, float]:
        """Milliseconds on the host, and until the last result is there."""
        host, whole = [], []
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            results = self.run(name)
            host.append(time.perf_counter() - started)
            np.asarray(next(reversed(results.values())))
            whole.append(time.perf_counter() - started)
        return statistics.median(host) * 1e3, statistics.median(whole) * 1e3

    def loop(self, forward: str, choose: str) -> tuple[float, float]:
        """Milliseconds of a step on the host, without waiting, and of a whole one, with two steps in flight."""
        host, whole = [], []
        pending: deque[Any] = deque()
        last = time.perf_counter()
        for _ in range(2 * REPETITIONS):
            started = time.perf_counter()
            self.run(forward)
            chosen = self.run(choose)["chosen"]
            chosen.copy_to_host_async()
            pending.append(chosen)
            host.append(time.perf_counter() - started)
            if len(pending) > 2:
                np.asarray(pending.popleft())
            now = time.perf_counter()
            whole.append(now - last)
            last = now
        return statistics.median(host[4:]) * 1e3, statistics.median(whole[4:]) * 1e3


def replay(directory: Path) -> None:
    mesh = open_mesh()
    print(f"On {mesh.kind}")
    replayed = Replayed(sorted(directory.glob("*.lowered")), mesh)
    for name in replayed.executables:
        host, whole = replayed.times(name)
        print(f"{name}: host {host:.2f} ms, until the result is there {whole:.2f} ms")
    forward = next(name for name in replayed.executables if name.startswith("forward"))
    host, whole = replayed.loop(forward, "choose none")
    print(f"decode step, two in flight: host {host:.2f} ms, step {whole:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("model", type=Path)
    recording.add_argument("destination", type=Path)
    recording.add_argument("--batch-size", type=int, default=8)
    recording.add_argument("--max-length", type=int, default=1024)
    recording.add_argument("--dtype", default="bfloat16")
    commands.add_parser("run").add_argument("directory", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        replay(arguments.directory)
    else:
        record(
            arguments.model,
            arguments.destination,
            arguments.batch_size,
            arguments.max_length,
            arguments.dtype,
        )


if __name__ == "__main__":
    main()
