"""Compares the libraries that hold outputs to grammars: start-up, compilation, masks, memory and coverage.

    uv pip install --group grammar-libraries
    PYTHONPATH=tests python -m benchmarks.grammar_libraries

Each measurement is a process of its own, which is stopped after LONGEST seconds. Times are of the demo model's
tokenizer; coverage is counted with a small one, over the schemas and expressions of tests/grammar.
"""

import json
import multiprocessing
import os
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from transformers import AutoTokenizer

from benchmarks.grammar_adapters import LIBRARIES, Output
from grammar.schemas import OBJECTS, SCHEMAS
from grammar.test_limits import CATASTROPHIC
from grammar.test_regexes import EXPRESSIONS
from support import small_tokenizers

MODEL = Path(__file__).parents[1] / "models" / "SmolLM2-135M-Instruct"
LONGEST = 15
STEPS = 200
CASES = {
    "phone number": (False, "[0-9]{3}-[0-9]{4}"),
    "text of up to 500 characters": (False, "[A-Za-z0-9 ,.]{0,500}"),
    "nested object": (True, json.dumps(OBJECTS[8])),
}


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def walk(output: Output, eos_id: int, closing: set[int], steps: int) -> tuple[list[int], list[float], bool]:
    """The tokens of a random walk, the seconds of each mask, and whether it ended by itself."""
    draw, seconds, ids = random.Random(0), list[float](), list[int]()
    for _ in range(steps):
        started = time.perf_counter()
        mask = output.mask()
        seconds.append(time.perf_counter() - started)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        if not allowed or (eos_id in allowed and (len(allowed) == 1 or draw.random() < 0.3)):
            return ids, seconds, True
        going_on = [token_id for token_id in allowed if token_id != eos_id]
        liked = [token_id for token_id in going_on if token_id in closing]
        ids.append(draw.choice(liked if liked and draw.random() < 0.5 else going_on))
        output.advance(ids[-1])
    return ids, seconds, False


def measure(name: str, is_schema: bool, text: str, tokenizer: Any) -> dict[str, float]:
    before, started = megabytes(), time.perf_counter()
    library = LIBRARIES[name](tokenizer)
    ready = time.perf_counter()
    output = library.output(is_schema, text)
    output.mask()
    first = time.perf_counter()
    seconds: list[float] = []
    for _ in range(5):
        seconds += walk(library.output(is_schema, text), tokenizer.eos_token_id, set(), STEPS)[1]
    return {
        "start-up, s": ready - started,
        "compiling and first mask, ms": (first - ready) * 1e3,
        "mask, median, µs": statistics.median(seconds) * 1e6,
        "mask, slowest, µs": max(seconds) * 1e6,
        "memory, MB": megabytes() - before,
    }


def cover(name: str, is_schema: bool, text: str, tokenizer: Any) -> str:
    """What became of a random output: right, wrong, endless or refused."""
    try:
        output = LIBRARIES[name](tokenizer).output(is_schema, text)
    except Exception:  # noqa: BLE001 - each library has its own
        return "refused"
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    closing = {index for index, piece in enumerate(pieces) if set(piece) & set('"}],:')}
    ids, _, ended = walk(output, tokenizer.eos_token_id, closing, 2000)
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not ended:
        return "endless"
    if not is_schema:
        return "right" if re.fullmatch(text, said, re.ASCII) else "wrong"
    try:
        answer = json.loads(said)
    except ValueError:
        return "wrong"
    validator = Draft202012Validator(json.loads(text), format_checker=Draft202012Validator.FORMAT_CHECKER)
    return "right" if validator.is_valid(answer) else "wrong"


def bear(name: str, text: str, tokenizer: Any) -> str:
    """What becomes of a catastrophic expression: the library goes on, or refuses it."""
    try:
        output = LIBRARIES[name](tokenizer).output(False, text)
        walk(output, tokenizer.eos_token_id, set(), STEPS)
    except Exception:  # noqa: BLE001 - each library has its own
        return "refused"
    return "goes on"


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or why it did not."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: theirs.send(function(*arguments)))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(LONGEST) else f"more than {LONGEST} s"
    except EOFError:
        return "crashed"
    finally:
        process.kill()
        process.join()


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    tokenizer, small = AutoTokenizer.from_pretrained(MODEL), small_tokenizers.byte_level()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"{versions}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for case, (is_schema, text) in CASES.items():
        for name in LIBRARIES:
            found = in_a_process(measure, name, is_schema, text, tokenizer)
            row(
                case,
                name,
                *([found] if isinstance(found, str) else [f"{each:.4g}" for each in found.values()]),
            )
    for name in LIBRARIES:
        schemas = Counter(in_a_process(cover, name, True, json.dumps(each), small) for each in SCHEMAS)
        expressions = Counter(in_a_process(cover, name, False, each, small) for each in EXPRESSIONS)
        row("coverage", name, dict(schemas), dict(expressions))
    for name in LIBRARIES:
        row(
            "catastrophic",
            name,
            dict(Counter(in_a_process(bear, name, each, tokenizer) for each in CATASTROPHIC)),
        )


if __name__ == "__main__":
    main()
