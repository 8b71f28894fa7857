"""How fast is the engine, beside transformers in eager torch, and llama.cpp? (`make bench`)

    python -m benchmarks.engine_speed models/SmolLM2-135M-Instruct

Same weights, same dtype, same prompts, all cores for each, each in its own process. They take turns within
one run, since a machine's speed drifts; each figure is a median, with the middle half of the repetitions in brackets.
The machine should have nothing else to do: eager torch suffers most from a neighbour.

llama.cpp is measured where `make llama` built it and the model is of the Llama family, which it reads from a GGUF file
in float32 with the same weights; its columns are empty elsewhere.

What is measured:
- decode step: from one read to the next in a loop that keeps two steps in flight, as the generator does. With 64
  tokens of context it reads the first quarter of the cache, with 300 all of it (engine.buckets).
- prefill: one prompt of 64 tokens into one slot, and a step, up to its first token.
- host time per step, device at rest: starting a step while nothing runs, and reading it when it ended long before.
- starting a step, in the loop: the same without reading, while XLA computes the step before on the same cores.
- device idle between steps: the time that the device had nothing to do although a step could have run, of the whole; an
  upper bound, see `engine.watch`.
- end to end: requests through the generator, prefill, text and stopping included, beside `model.generate`.
- warm-up: recording and compiling every program of the engine, without a cache; several at a time.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import llama_file
from benchmarks.prompts import decoded, prefill
from benchmarks.report import median_and_spread, table
from benchmarks.rival import NEW_TOKENS, RivalProcess
from text_generation_server.batching.generator import STEPS_IN_FLIGHT, Generator
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.engine.contract import PendingOutput, WarmupProgress
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.loading.engine import EngineOptions, LoadedModel, load_engine
from text_generation_server.sampling.parameters import SamplingParameters

MAX_LENGTH = 512
SHORT_CONTEXT, LONG_CONTEXT = 64, 300
REPETITIONS = 5
# Five times ten steps from 64 tokens on stay within the first quarter of 512.
STEPS = 10
LLAMA_PYTHON = Path(".venv-llama/bin/python")
GREEDY = SamplingParameters()
EXPLANATION = ": explain in a few sentences why the sky is blue and sunsets are red. " * 3
SAMPLING = SamplingParameters(temperature=0.8, top_k=50, top_p=0.95, seed=1)


HEADINGS = (
    "batch",
    "work",
    "ours ms",
    "eager ms",
    "eager / ours",
    "llama.cpp ms",
    "llama.cpp / ours",
    "ours tokens/s",
    "eager tokens/s",
    "llama.cpp tokens/s",
)


@dataclass
class Times:
    """Milliseconds of one kind of work, of each side."""

    ours: list[float] = field(default_factory=list)
    eager: list[float] = field(default_factory=list)
    llama: list[float] = field(default_factory=list)


@dataclass
class BatchResult:
    """Everything that was measured at one batch size. Times in milliseconds, but the warm-up's in seconds."""

    batch_size: int
    prefill: Times = field(default_factory=Times)
    greedy: Times = field(default_factory=Times)
    greedy_long: Times = field(default_factory=Times)
    sampling: Times = field(default_factory=Times)
    host: list[float] = field(default_factory=list)
    host_at_rest: list[float] = field(default_factory=list)
    idle: float | None = None
    warmup: list[WarmupProgress] = field(default_factory=list)
    end_to_end: "EndToEnd | None" = None


@dataclass(frozen=True)
class EndToEnd:
    """Tokens per second of a full batch, prefill included; `text_ms` is the host's work on text, per step."""

    ours: list[float]
    eager: list[float]
    text_ms: list[float]


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def prompts(rows: int, length: int, vocabulary: int) -> list[list[int]]:
    """Token ids, the same in each run. Which ids they are does not matter for time."""
    generator = torch.Generator().manual_seed(0)
    ids: list[list[int]] = torch.randint(100, vocabulary, (rows, length), generator=generator).tolist()
    return ids


def fill(engine: StaticBatchEngine, rows: list[list[int]], sampling: SamplingParameters) -> None:
    """Puts a prompt into each slot."""
    for slot, row in enumerate(rows):
        engine.release(slot)
        prefill(engine, slot, row, sampling)


def first_token(engine: StaticBatchEngine, prompt: list[int]) -> None:
    """From a prompt to its first token, in an otherwise empty batch."""
    for slot in range(engine.info.batch_size):
        engine.release(slot)
    prefill(engine, 0, prompt, GREEDY)
    engine.start_step().choose().read()


class Stepper:
    """Advances an engine with as many steps in flight as the generator has, and keeps what starting them took.

    Attributes:
        dispatch: milliseconds.
    """

    def __init__(self, engine: StaticBatchEngine) -> None:
        self._engine = engine
        self._pending: deque[PendingOutput] = deque()
        self.dispatch: list[float] = []

    def step(self) -> None:
        while len(self._pending) < STEPS_IN_FLIGHT:
            started = time.perf_counter()
            self._pending.append(self._engine.start_step().choose())
            self.dispatch.append((time.perf_counter() - started) * 1e3)
        self._pending.popleft().read()

    def drain(self) -> None:
        while self._pending:
            self._pending.popleft().read()


def host_at_rest(engine: StaticBatchEngine, step_ms: float) -> float:
    """Milliseconds of one step on the host while the device has nothing to do: starting it, and reading it later."""

    def pause() -> None:
        # Long enough for the step to end. Awake, as in the loop: a core that slept takes a millisecond to come back.
        until = time.perf_counter() + step_ms * 4 / 1e3 + 0.1
        while time.perf_counter() < until:
            pass

    started = time.perf_counter()
    pending = engine.start_step().choose()
    dispatch = (time.perf_counter() - started) * 1e3
    pause()
    read = milliseconds(pending.read)
    pause()
    return dispatch + read


@dataclass(frozen=True)
class Rivals:
    """What the engine is measured beside; llama.cpp may be missing."""

    eager: RivalProcess
    llama: RivalProcess | None

    def do(self, work: str, prompts: list[list[int]]) -> None:
        """Does it once, unmeasured."""
        for rival in (self.eager, self.llama):
            if rival is not None:
                rival.times(work, 1, prompts)

    def take_turns(
        self, times: Times, ours: Callable[[], object], work: str, count: int, prompts: list[list[int]]
    ) -> None:
        """One repetition of each. The first time of each is not counted: caches and threads wake up."""
        times.ours.extend([milliseconds(ours) for _ in range(count)][1:])
        times.eager.extend(self.eager.times(work, count, prompts)[1:])
        if self.llama is not None:
            times.llama.extend(self.llama.times(work, count, prompts)[1:])

    def close(self) -> None:
        for rival in (self.eager, self.llama):
            if rival is not None:
                rival.close()


def start_rivals(model: Path, dtype: str, most_rows: int) -> Rivals:
    """`most_rows`: the largest batch."""
    eager = RivalProcess([sys.executable, "-m", "benchmarks.eager", str(model), dtype])
    if not LLAMA_PYTHON.exists() or dtype != "float32" or not llama_file.is_llama(model):
        print("llama.cpp is not measured: see `make llama`", file=sys.stderr)
        return Rivals(eager, None)
    file = Path("build") / f"{model.name}.gguf"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        llama_file.write(model, file)
    command = [str(LLAMA_PYTHON), "-m", "benchmarks.llama", str(file), str(most_rows), str(MAX_LENGTH)]
    return Rivals(eager, RivalProcess(command))


def measure(loaded: LoadedModel, rivals: Rivals, result: BatchResult) -> BatchResult:
    """All measurements at one batch size; `result` has that and the warm-up."""
    engine, batch_size = loaded.engine, result.batch_size
    engine.warm_up(lambda _: None)
    vocabulary = engine.info.vocab_size
    short, long = (prompts(batch_size, length, vocabulary) for length in (SHORT_CONTEXT, LONG_CONTEXT))

    for _ in range(REPETITIONS):
        rivals.take_turns(result.prefill, lambda: first_token(engine, short[0]), "prefill", 3, short[:1])
    stepper = Stepper(engine)
    for context, times in ((short, result.greedy), (long, result.greedy_long)):
        stepper.drain()
        fill(engine, context, GREEDY)
        rivals.do("prefill", context)
        for _ in range(REPETITIONS):
            rivals.take_turns(times, stepper.step, "decode", STEPS, [])
    step_ms = statistics.median(result.greedy_long.ours)
    stepper.drain()
    result.host = stepper.dispatch
    result.host_at_rest = [host_at_rest(engine, step_ms) for _ in range(2 * REPETITIONS)]
    fill(engine, long, GREEDY)
    idle = engine.statistics().idle_seconds
    started = time.perf_counter()
    for _ in range(REPETITIONS * STEPS):
        stepper.step()
    result.idle = (engine.statistics().idle_seconds - idle) / (time.perf_counter() - started) * 100
    stepper.drain()

    fill(engine, short, SAMPLING)
    result.sampling.ours = [milliseconds(stepper.step) for _ in range(REPETITIONS * STEPS)]
    stepper.drain()
    for slot in range(batch_size):
        engine.release(slot)
    return result


def end_to_end(loaded: LoadedModel, eager: RivalProcess, batch_size: int) -> EndToEnd:
    """A full batch of requests of one length through the generator, and the same through `model.generate`.

    Prompts differ from their first token on, and from those of the turn before: nothing is found in a slot.
    """
    generator = Generator(loaded.engine, loaded.tokenizer, loaded.eos_token_ids)
    result = EndToEnd([], [], [])
    texts = [
        # A letter is one token, so all are equally long.
        [chr(ord("A") + turn * batch_size + i) + EXPLANATION for i in range(batch_size)]
        for turn in range(3)
    ]

    def serve(prompts: list[str]) -> None:
        requests = [
            GenerationRequest(id=i, prompt=prompt, max_new_tokens=NEW_TOKENS, ignore_eos_token=True)
            for i, prompt in enumerate(prompts)
        ]
        for outcome in decoded(generator, generator.prefill(0, requests)):
            result.text_ms.append(outcome.timings.decode_ns / 1e6)

    tokens = batch_size * NEW_TOKENS
    for turn in texts:
        token_ids = [loaded.tokenizer.encode(text, add_special_tokens=True) for text in turn]
        result.ours.append(tokens / milliseconds(partial(serve, turn)) * 1e3)
        result.eager.append(tokens / eager.times("generate", 1, token_ids)[0] * 1e3)
    return result


def report(results: list[BatchResult]) -> str:
    """The tables, in markdown."""
    rows = []
    for result in results:
        size = str(result.batch_size)
        for work, times, tokens in (
            (f"prefill, {SHORT_CONTEXT} tokens, one request", result.prefill, SHORT_CONTEXT),
            (f"decode, greedy, context {SHORT_CONTEXT}", result.greedy, result.batch_size),
            (f"decode, greedy, context {LONG_CONTEXT}", result.greedy_long, result.batch_size),
            (f"decode, top-k and top-p, context {SHORT_CONTEXT}", result.sampling, result.batch_size),
        ):
            rows.append([size, work, *compared(times, tokens)])
        nothing = [""] * (len(HEADINGS) - 3)
        rows.append([size, "starting a step, in the loop", median_and_spread(result.host, 2), *nothing])
        if result.host_at_rest:
            at_rest = median_and_spread(result.host_at_rest, 2)
            rows.append([size, "host time per step, device at rest", at_rest, *nothing])
        if result.idle is not None:
            rows.append([size, "device idle between steps, %", f"{result.idle:.1f}", *nothing])
    parts = [table(HEADINGS, rows)]
    for result in results:
        if end := result.end_to_end:
            parts.append(
                f"End to end, {result.batch_size} requests of {NEW_TOKENS} new tokens: "
                f"{median_and_spread(end.ours)} tokens/s; `model.generate`: {median_and_spread(end.eager)} tokens/s. "
                f"Text and stopping take {median_and_spread(end.text_ms, 2)} ms a step."
            )
    parts.append(warmup_table(results))
    return "\n\n".join(parts)


def compared(times: Times, tokens: int) -> list[str]:
    """Cells of all sides; those of one that was not measured are empty."""
    ours = statistics.median(times.ours)
    cells = [median_and_spread(times.ours)]
    for others in (times.eager, times.llama):
        cells += (
            [median_and_spread(others), f"{statistics.median(others) / ours:.2f}"] if others else ["", ""]
        )
    for side in (times.ours, times.eager, times.llama):
        cells.append(f"{tokens / statistics.median(side) * 1e3:.1f}" if side else "")
    return cells


def warmup_table(results: list[BatchResult]) -> str:
    """Seconds of each program at each batch size; some programs have the batch size in their name."""
    by_size = [{step.program: step.seconds for step in result.warmup} for result in results]
    programs = dict.fromkeys(program for seconds in by_size for program in seconds)
    rows = [
        [program, *(f"{seconds[program]:.1f}" if program in seconds else "" for seconds in by_size)]
        for program in programs
    ]
    rows.append(["all programs", *(f"{sum(seconds.values()):.1f}" for seconds in by_size)])
    return table(["warm-up, seconds", *(f"batch {result.batch_size}" for result in results)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a directory with a checkpoint")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all times there, for benchmarks.plots"
    )
    arguments = parser.parse_args()
    rivals: Rivals | None = None
    results = []
    for batch_size in arguments.batch_sizes:
        print(f"Measuring at batch size {batch_size}", file=sys.stderr)
        warmup: list[WarmupProgress] = []
        loaded = load_engine(
            arguments.model,
            EngineOptions(batch_size=batch_size, max_length=MAX_LENGTH),
            compile_cache=None,
            progress=warmup.append,
        )
        rivals = rivals or start_rivals(arguments.model, loaded.engine.info.dtype, max(arguments.batch_sizes))
        result = measure(loaded, rivals, BatchResult(batch_size, warmup=warmup))
        if batch_size == max(arguments.batch_sizes):
            result.end_to_end = end_to_end(loaded, rivals.eager, batch_size)
        results.append(result)
    if rivals is not None:
        rivals.close()
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "torch_xla", "transformers"))
    title = f"{arguments.model.name}, {loaded.engine.info.dtype}, sequence length {MAX_LENGTH}, {os.cpu_count()} cores"
    print(f"\n{title}; {versions}; load {os.getloadavg()[1]:.1f}\n")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"title": title, "results": [asdict(it) for it in results]}))
    print(report(results))


if __name__ == "__main__":
    main()
