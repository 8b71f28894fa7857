"""What does each feature of a request cost, and what do its neighbours pay? (part of `make bench`)

    python -m benchmarks.feature_price models/SmolLM2-135M-Instruct

One engine that is ready for every feature, and one without LoRA adapters, at the same batch size, in one process. All
slots but one hold plain greedy requests; the request in the last slot asks for one feature after the other. A token is
chosen by one program for all slots, so the time of such a step is what every request in it pays, and it is the same if
all of them ask. Features take turns, as a machine's speed drifts, and each figure is a median of all turns.

- price: the difference to a step of plain greedy requests on the same engine, median against median.
- adapters, none used: the same plain greedy step on both engines. Loaded adapters are part of the forward.
- grammar: its mask is made on the host while the model runs, and sent.
- prompt logprobs: the head runs on all tokens of the prompt; the price is per prompt, beside the prefill.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.prompts import prefill
from benchmarks.report import median_and_spread, table
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.grammar.constraint import Constraint
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.grammar.masks import masks_of_step
from text_generation_server.grammar.pool import CompilationPool
from text_generation_server.grammar.vocabulary import Vocabulary
from text_generation_server.loading.engine import EngineOptions, load_engine
from text_generation_server.sampling.parameters import SamplingParameters

BATCH_SIZE, MAX_LENGTH = 8, 512
TURNS, STEPS = 6, 8
SHORT, LONG = [100, 200, 300, 400], list(range(100, 164))
"""Prompts. With the short one, a turn of all features stays within the first quarter of a slot."""

PLAIN = SamplingParameters()


@dataclass(frozen=True)
class Feature:
    """What the request in the last slot asks for.

    Attributes:
        programs: those that were compiled for it, by the beginning of their names.
    """

    name: str
    sampling: SamplingParameters = PLAIN
    ranked: bool = False
    adapter: str | None = None
    grammar: Grammar | None = None
    programs: tuple[str, ...] = ()


NOTHING = Feature("nothing: plain greedy")
FEATURES = [
    Feature(
        "repetition and frequency penalty",
        SamplingParameters(repetition_penalty=1.2, frequency_penalty=0.5),
        programs=("choose penalties",),
    ),
    Feature("sampling", SamplingParameters(do_sample=True, seed=1), programs=("choose penalties",)),
    Feature(
        "top-k and top-p", SamplingParameters(top_k=50, top_p=0.95, seed=1), programs=("choose filters",)
    ),
    Feature("typical-p", SamplingParameters(typical_p=0.9, seed=1), programs=("choose everything",)),
    Feature("watermark", SamplingParameters(watermark=True), programs=("choose everything",)),
    Feature("alternatives (top_n_tokens)", ranked=True, programs=("rank",)),
    Feature(
        "grammar",
        grammar=Grammar(GrammarKind.REGEX, "[A-Za-z0-9 ,.]{1000}"),
        programs=("constrain",),
    ),
    Feature("LoRA adapter", adapter="one"),
]


@dataclass
class Prices:
    """Milliseconds, by what was asked for."""

    steps: dict[str, list[float]] = field(default_factory=dict)
    without_adapters: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    compiled: dict[str, float] = field(default_factory=dict)


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


@contextmanager
def random_adapters(model: Path) -> Iterator[list[tuple[str, Path]]]:
    """Two adapters of rank 16 on all linear layers, as PEFT writes them."""
    with tempfile.TemporaryDirectory() as directory:
        adapters = [(name, Path(directory) / name) for name in ("one", "two")]
        for _, path in adapters:
            base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
            get_peft_model(base, config).save_pretrained(path)
        yield adapters


def hold_greedy_requests(engine: StaticBatchEngine) -> None:
    """Plain greedy requests in all slots."""
    for slot in range(BATCH_SIZE):
        engine.release(slot)
        prefill(engine, slot, SHORT, PLAIN)


def ask(engine: StaticBatchEngine, feature: Feature) -> None:
    """Gives the last slot to a request that asks for one feature."""
    engine.release(BATCH_SIZE - 1)
    prefill(engine, BATCH_SIZE - 1, SHORT, feature.sampling, ranked=feature.ranked, adapter=feature.adapter)


def steps(engine: StaticBatchEngine, constraint: Constraint | None = None) -> list[float]:
    """The times of some steps; the first one wakes caches and threads, and is not counted.

    Args:
        constraint: of the last slot. Following the output and making its mask are part of a step.
    """

    def step() -> None:
        started = engine.start_step()
        chosen = started.choose(masks_of_step({BATCH_SIZE - 1: constraint}, BATCH_SIZE)).read()
        if constraint:
            constraint.advance(chosen[BATCH_SIZE - 1][0].token_id)

    return [milliseconds(step) for _ in range(STEPS + 1)][1:]


def measure(model: Path) -> Prices:
    prices = Prices()
    with random_adapters(model) as adapters:
        options = EngineOptions(BATCH_SIZE, MAX_LENGTH, scores_prompts=True, adapters=adapters)
        loaded = load_engine(
            model,
            options,
            compile_cache=None,
            progress=lambda step: prices.compiled.update({step.program: step.seconds}),
        )
    ready = loaded.engine
    grammars = CompilationPool(Vocabulary(loaded.tokenizer, ready.info.vocab_size, loaded.eos_token_ids))
    without = load_engine(model, EngineOptions(BATCH_SIZE, MAX_LENGTH), compile_cache=None).engine
    ready.warm_up(lambda _: None)
    without.warm_up(lambda _: None)
    for _ in range(TURNS):
        hold_greedy_requests(without)
        prices.without_adapters += steps(without)
        hold_greedy_requests(ready)
        ready.release(0)
        scored = milliseconds(lambda: prefill(ready, 0, LONG, PLAIN, scored=True))
        ready.release(0)
        prefilled = milliseconds(lambda: prefill(ready, 0, LONG, PLAIN))
        ready.release(0)
        prefill(ready, 0, SHORT, PLAIN)
        for feature in [NOTHING, *FEATURES]:
            constraint = grammars.constraint(feature.grammar) if feature.grammar else None
            if constraint:
                constraint.compiling.result()
            ask(ready, feature)
            prices.steps.setdefault(feature.name, []).extend(steps(ready, constraint))
        prices.prompt_logprobs.append(scored)
        prices.prefill.append(prefilled)
    return prices


def report(prices: Prices) -> str:
    """The tables, in markdown."""
    base = statistics.median(prices.steps[NOTHING.name])
    rows = [
        ["plain greedy, no adapters loaded", median_and_spread(prices.without_adapters), "", "", ""],
    ]
    for feature in [NOTHING, *FEATURES]:
        times = prices.steps[feature.name]
        before = statistics.median(prices.without_adapters) if feature is NOTHING else base
        price = statistics.median(times) - before
        name = "plain greedy, adapters loaded, none used" if feature is NOTHING else feature.name
        rows.append(
            [
                name,
                median_and_spread(times),
                f"{price:+.1f}",
                f"{price / before:+.0%}",
                programs_of(prices, feature.programs),
            ]
        )
    scored = median_and_spread(prices.prompt_logprobs)
    share = statistics.median(prices.prompt_logprobs) / statistics.median(prices.prefill)
    rows.append(
        [
            f"prompt logprobs, once, {len(LONG)} tokens",
            scored,
            "",
            f"{share:+.0%} of a prefill",
            programs_of(prices, ("score",)),
        ]
    )
    headings = [f"asked for, batch {BATCH_SIZE}", "step ms", "price ms", "price", "programs (compiling)"]
    total = f"{len(prices.compiled)} programs in {sum(prices.compiled.values()):.0f} s"
    return table(headings, rows) + f"\n\nWarm-up of all: {total}."


def programs_of(prices: Prices, beginnings: tuple[str, ...]) -> str:
    """How many programs a feature adds to the warm-up, and their seconds."""
    seconds = [
        taken
        for program, taken in prices.compiled.items()
        if any(program.startswith(each) for each in beginnings)
    ]
    return f"{len(seconds)} ({sum(seconds):.1f} s)" if seconds else "none"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a directory with a checkpoint")
    model = parser.parse_args().model
    prices = measure(model)
    print(
        f"\n{model.name}, sequence length {MAX_LENGTH}; {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}\n"
    )
    print(report(prices))


if __name__ == "__main__":
    main()
