"""A plan as a table, and as a plot."""

import shlex
from pathlib import Path

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.errors import InvalidSettingError
from text_generation_server.model.memory import gibibytes
from tpu_tgi.plan.planning import Choice, Plan
from tpu_tgi.plan.tpus import Tpu

HEADINGS = (
    "chips",
    "slots",
    "weights",
    "cache",
    "temporaries",
    "code",
    "step GB",
    "step GFLOP",
    "step ms",
    "tokens/s",
    "piece GFLOP",
    "piece ms",
    "compiled s",
)


def cells(choice: Choice) -> list[str]:
    return [
        str(choice.chips),
        str(choice.batch),
        gibibytes(choice.weights),
        gibibytes(choice.cache),
        gibibytes(choice.temporaries),
        gibibytes(choice.code),
        f"{choice.step_bytes / 1e9:.2f}",
        f"{choice.step_flops / 1e9:.0f}",
        f"{1e3 * choice.step_seconds:.2f}",
        f"{choice.tokens_per_second:.0f}",
        f"{choice.piece_flops / 1e9:.0f}",
        f"{1e3 * choice.piece_seconds:.1f}",
        f"{choice.compile_seconds:.0f}",
    ]


def as_table(plan: Plan) -> str:
    rows = [list(HEADINGS), *(cells(choice) for choice in plan.choices)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def remarks(plan: Plan, tpu: Tpu, length: int) -> list[str]:
    first, second, layers = plan.layers
    how = (
        f"Compiled with {first} and {second} of {layers} layers; the others were added."
        if second < layers
        else f"Compiled with all {layers} layers."
    )
    return [
        f"On each chip of {tpu.name}: {gibibytes(tpu.memory)}, {tpu.bandwidth / 1e9:.0f} GB/s, "
        f"{tpu.flops / 1e12:.0f} TFLOP/s. Slots and prefill have {length} tokens. {how}",
        "Milliseconds and tokens per second are bounds that follow from bandwidth and FLOPs, not a promise: nothing "
        "is faster. A step reads all weights and the whole cache once, and of experts those that its slots can choose.",
    ]


def command_line(choice: Choice, model: str, quantize: str | None, cache_dtype: CacheDtype | None) -> str:
    words = ["tpu-tgi", model, "--num-shard", str(choice.chips), "--max-batch-size", str(choice.batch)]
    words += ["--max-total-tokens", str(choice.length)]
    words += ["--quantize", quantize] if quantize else []
    return shlex.join([*words, *(["--kv-cache-dtype", cache_dtype.value] if cache_dtype else [])])


def fastest(plan: Plan) -> list[Choice]:
    """For each number of chips the one with the most tokens per second."""
    found: dict[int, Choice] = {}
    for choice in plan.choices:
        if choice.chips not in found or choice.tokens_per_second > found[choice.chips].tokens_per_second:
            found[choice.chips] = choice
    return list(found.values())


def save_plot(plan: Plan, title: str, file: Path) -> None:
    """Slots against tokens per second and against the length of a step, a line for each number of chips.

    Raises InvalidSettingError if the file cannot be written.
    """
    # Not earlier: only a plot needs it, and it takes a second.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    speed, latency = figure.subplots(1, 2)
    for chips in dict.fromkeys(choice.chips for choice in plan.choices):
        line = [choice for choice in plan.choices if choice.chips == chips]
        slots = [choice.batch for choice in line]
        label = f"{chips} chip{'s' if chips > 1 else ''}"
        speed.plot(slots, [choice.tokens_per_second for choice in line], marker="o", label=label)
        latency.plot(slots, [1e3 * choice.step_seconds for choice in line], marker="o", label=label)
    for axes, name in ((speed, "tokens per second, at most"), (latency, "milliseconds of a step, at least")):
        axes.set(xlabel="slots", ylabel=name, xscale="log", ylim=(0, None))
        axes.set_xticks(
            slots_shown := sorted({choice.batch for choice in plan.choices}), map(str, slots_shown)
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    try:
        figure.savefig(file)
    except OSError as error:
        raise InvalidSettingError(f"`--plot {file}` cannot be written: {error}") from error
