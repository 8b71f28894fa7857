"""What the engine is compared with runs in a process of its own, and gets its turns from here.

Of its own, because the threads of torch and of llama.cpp wait for work by spinning, and would take the cores from XLA's
threads (and the other way round).

Such a process reads one JSON object a line, {"work": "prefill" | "decode" | "generate", "times": n,
"prompts": [[...]]}, and answers each with a line of JSON: a list of n times in milliseconds.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

NEW_TOKENS = 32
"""Of each prompt, in "generate"."""


class RivalProcess:
    """The parent's end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._name = " ".join(command)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def times(self, work: str, times: int, prompts: Sequence[list[int]] = ()) -> list[float]:
        """Does the work so many times; the milliseconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"work": work, "times": times, "prompts": prompts}),
            file=self._process.stdin,
            flush=True,
        )
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._name} ended with code {self._process.wait()}; its error stands above")
        milliseconds: list[float] = json.loads(answer)
        return milliseconds

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(run: Callable[[str, list[list[int]]], None]) -> None:
    """The child's end: runs each work with its prompts as often as it is told."""
    for line in sys.stdin:
        command = json.loads(line)
        milliseconds = []
        for _ in range(command["times"]):
            started = time.perf_counter()
            run(command["work"], command["prompts"])
            milliseconds.append((time.perf_counter() - started) * 1e3)
        print(json.dumps(milliseconds), flush=True)
