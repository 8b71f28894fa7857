"""Makes programs ready: from the cache, or recorded and compiled, by a few threads."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
from loguru import logger

from text_generation_server.engine import catalogue
from text_generation_server.engine.contract import WarmupProgress
from text_generation_server.engine.sharding import ONE_CHIP, Sharding
from text_generation_server.lowering.loop import Loop, loop
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.request import Lowering, ProgramOptions
from text_generation_server.runtime.cache import ProgramCache, key_of
from text_generation_server.runtime.executable import COMPILER_OPTIONS, Executable, compile_program
from text_generation_server.runtime.mesh import DeviceMesh

THREADS = max(2, min(4, os.cpu_count() or 2))
"""Programs that are compiled or loaded at a time. XLA uses several cores for one of them only in part."""

FROM_CACHE = "from cache"
COMPILED = "compiled"


class Compiler:
    """Gives each program of one model and one batch, ready to run.

    Attributes:
        compiled: names of the programs that did not come from the cache.
    """

    def __init__(
        self,
        lowering: Lowering,
        options: ProgramOptions,
        model_key: str,
        code_key: str,
        cache: ProgramCache,
        mesh: DeviceMesh,
        sharding: Sharding = ONE_CHIP,
    ) -> None:
        """`model_key` and `code_key` change with all that the programs that read the model, and those that do not,
        depend on beside `options`.
        """
        self._lowering = lowering
        self._options = options
        self._cache = cache
        self._mesh = mesh
        self._sharding = sharding
        self._model_key = model_key
        self._code_key = code_key
        self._environment = environment(mesh)
        self.compiled: list[str] = []

    def prepare(
        self, names: Sequence[str], progress: Callable[[WarmupProgress], None]
    ) -> dict[str, Executable]:
        """All of them; `progress` is called for each, in any order but one at a time.

        Raises UnsupportedModelError for a program that cannot be recorded, RuntimeError for one that cannot be
        compiled.
        """
        ready: dict[str, Executable] = {}
        lock = threading.Lock()

        def finished(name: str, executable: Executable, started: float, origin: str) -> None:
            with lock:
                ready[name] = executable
                if origin == COMPILED:
                    self.compiled.append(name)
                seconds = time.perf_counter() - started
                progress(WarmupProgress(name, len(ready), len(names), seconds, origin))

        def load(name: str) -> None:
            started = time.perf_counter()
            executable = self._cached(name)
            if executable is not None:
                finished(name, executable, started, FROM_CACHE)

        def make(program: LoweredProgram | Loop) -> None:
            started = time.perf_counter()
            executable = compile_program(program, self._mesh, self._sharding)
            self._keep(program.name, executable)
            finished(program.name, executable, started, COMPILED)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="compile") as threads:
            list(threads.map(load, names))
            missing = [name for name in names if name not in ready]
            making: list[Future[None]] = []
            unmade = Unmade(missing)
            unrecorded = []
            for part in unmade.parts:
                recorded = self._recorded(part)
                if recorded is None:
                    unrecorded.append(part)
                else:
                    making += [threads.submit(make, program) for program in unmade.complete(recorded)]
            if unrecorded:
                for program in self._lowering.lower(self._options, unrecorded):
                    self._cache.put(self._lowered_name(program.name), program.to_bytes())
                    making += [threads.submit(make, made) for made in unmade.complete(program)]
            for future in making:
                future.result()
        # In the order in which they were asked for.
        return {name: ready[name] for name in names}

    def _lowered_name(self, name: str) -> str:
        return key_of("lowered", self._scope(name), name)

    def _compiled_name(self, name: str) -> str:
        sharding = self._sharding if catalogue.reads_model(name) else replace(self._sharding, weights={})
        return key_of("compiled", self._scope(name), name, self._environment, repr(sharding))

    def _scope(self, name: str) -> str:
        """Of what the recorded program depends on. What does not read the model is shared by all of the same shape."""
        options = replace(self._options, shape=catalogue.shape_for(name, self._options.shape))
        of_code = self._model_key if catalogue.reads_model(name) else self._code_key
        return key_of("scope", of_code, repr(options.to_json()))

    def _recorded(self, name: str) -> LoweredProgram | None:
        payload = self._cache.get(self._lowered_name(name))
        if payload is None:
            return None
        try:
            return LoweredProgram.from_bytes(payload)
        except (ValueError, KeyError) as error:
            logger.warning("Compile cache: the recorded program {} cannot be read: {}", name, error)
            return None

    def _cached(self, name: str) -> Executable | None:
        payload = self._cache.get(self._compiled_name(name))
        if payload is None:
            return None
        try:
            return Executable.from_bytes(payload, self._mesh)
        except Exception as error:  # noqa: BLE001 - whatever the runtime says of it, it can be compiled again
            logger.warning("Compile cache: the compiled program {} cannot be loaded: {}", name, error)
            self._cache.forget(self._compiled_name(name))
            return None

    def _keep(self, name: str, executable: Executable) -> None:
        try:
            self._cache.put(self._compiled_name(name), executable.to_bytes())
        except Exception as error:  # noqa: BLE001 - some devices cannot give programs out
            logger.warning("Compile cache: the compiled program {} cannot be kept: {}", name, error)


class Unmade:
    """The programs that are still to be compiled, and what was recorded of them so far.

    Attributes:
        parts: all that has to be recorded, in the order in which it is asked for.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._recorded: dict[str, LoweredProgram] = {}
        self.parts = list(dict.fromkeys(part for name in names for part in catalogue.parts(name)))

    def complete(self, recorded: LoweredProgram) -> list[LoweredProgram | Loop]:
        """Those that can be compiled now that this one is recorded too."""
        self._recorded[recorded.name] = recorded
        made: list[LoweredProgram | Loop] = []
        for name in list(self._names):
            parts = catalogue.parts(name)
            if recorded.name not in parts or not self._recorded.keys() >= set(parts):
                continue
            self._names.remove(name)
            if parts == [name]:
                made.append(recorded)
            else:
                forward, *choices = (self._recorded[part] for part in parts)
                made.append(loop(name, catalogue.steps_and_length(name)[0], forward, choices))
        return made


def environment(mesh: DeviceMesh) -> str:
    """All that a compiled program depends on beside the recorded one."""
    client = mesh.devices[0].client
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    processor = processor_features() if mesh.is_cpu else ""
    return repr(
        [
            jax.__version__,
            jax.lib.__version__,
            client.platform,
            client.platform_version,
            mesh.kind,
            len(mesh.devices),
            flags,
            COMPILER_OPTIONS.get(mesh.platform),
            processor,
            sources(),
        ]
    )


@cache
def sources() -> str:
    """Changes with what this room puts into a recorded program before it is compiled."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def processor_features() -> str:
    """What the code for a CPU was compiled for: its instructions differ between machines of one kind."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""
