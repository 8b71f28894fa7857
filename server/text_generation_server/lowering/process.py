"""Lowering in a process of its own, so that this one needs no torch, and an abort in there is an error here.

Frames go both ways: a line of JSON, and as many bytes after it as its entry "bytes" says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from loguru import logger

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.model.description import ModelDescription, ModelSource, TextFacts

# Flags for the runtime's XLA, some of which the older XLA inside torch_xla would refuse to start with; and what
# launchers set for a distributed run.
NOT_INHERITED = ("XLA_FLAGS", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LoweringProcess:
    """See `request.Lowering`. The process starts with the first question."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._source: ModelSource | None = None
        self._described = False

    def describe(self, source: ModelSource) -> ModelDescription:
        self._source, self._described = source, True
        header, _ = self._ask({"describe": source.to_json()})
        return ModelDescription.from_json(header["description"])

    def read_text(self, directory: Path) -> TextFacts:
        header, _ = self._ask({"read_text": str(directory)})
        return TextFacts.from_json(header["text"])

    def resume(self, source: ModelSource) -> None:
        """Programs will be asked of this model, whose description is known from before."""
        self._source, self._described = source, False

    def lower(self, options: ProgramOptions, names: Sequence[str]) -> Iterator[LoweredProgram]:
        if self._source is None:
            raise RuntimeError("a model must be described before its programs are lowered")
        if not self._described:
            self.describe(self._source)
        self._send({"lower": options.to_json(), "names": list(names)})
        for _ in names:
            _, payload = self._receive()
            yield LoweredProgram.from_bytes(payload)

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        # Whoever asks on gets a new one.
        self._process, self._described = None, False

    def _ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        self._send(question)
        return self._receive()

    def _send(self, question: dict[str, Any]) -> None:
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        header: dict[str, Any] = json.loads(line)
        if "unsupported" in header:
            raise UnsupportedModelError(header["unsupported"])
        payload = self._process.stdout.read(header.get("bytes", 0))
        return header, payload

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            logger.info("Starting torch_xla to record programs: nothing in the cache fits")
            # Not a pipe, which would fill up: nobody reads it unless the process fails. In memory: disks may be full.
            self._errors = open(os.memfd_create("lowering"), "w+b")  # noqa: SIM115 - as long as the process runs
            environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
            self._process = subprocess.Popen(
                # -P: what lies in the current directory is none of our modules.
                [sys.executable, "-P", "-m", "text_generation_server.lowering"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        return self._process

    def _failure(self) -> RuntimeError:
        """What the process said before it ended."""
        assert self._process is not None
        assert self._errors is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if "Error" in line or "Check failed" in line] or lines
        said = telling[-1][-500:] if telling else "it said nothing"
        logger.debug("The lowering process wrote:\n{}", "\n".join(lines[-50:]))
        return RuntimeError(f"the programs could not be recorded, the process ended with {code}: {said}")
