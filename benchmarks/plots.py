"""The plots beside the tables of docs/performance.md, drawn from what `make bench` wrote.

    python -m benchmarks.plots build/engine_speed.json docs/images/decode.svg

Milliseconds of a decode step and tokens per second at each batch size, of the engine, of eager torch, and of llama.cpp
if it was measured: medians, with the middle half of the repetitions as a bar.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIDES = {"ours": "this engine", "eager": "eager torch", "llama": "llama.cpp"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, help="what `benchmarks.engine_speed --json` wrote")
    parser.add_argument("plot", type=Path, help="the file to draw: .svg or .png")
    arguments = parser.parse_args()
    decode_plot(json.loads(arguments.measured.read_text())).savefig(arguments.plot, metadata={"Date": None})


def decode_plot(measured: dict[str, Any]) -> Figure:
    """`measured`: {"title": what was measured where, "results": [engine_speed.BatchResult as a dictionary]}."""
    # Text stays text, and equal figures give an equal file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tpu-tgi"})
    figure = Figure(figsize=(9, 4), layout="constrained")
    steps, tokens = figure.subplots(1, 2)
    for side, label in SIDES.items():
        times = {result["batch_size"]: result["greedy"][side] for result in measured["results"]}
        if not all(times.values()):
            continue
        spread(steps, label, times)
        speeds = {size: [size / step * 1e3 for step in found] for size, found in times.items()}
        spread(tokens, label, speeds)
    for axes, name in ((steps, "milliseconds of a decode step"), (tokens, "tokens per second")):
        sizes = [result["batch_size"] for result in measured["results"]]
        axes.set(xlabel="batch size", ylabel=name, ylim=(0, None), xticks=sizes)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(measured["title"], fontsize="medium")
    return figure


def spread(axes: Axes, label: str, values: dict[int, list[float]]) -> None:
    """A line of medians; `values` has those of each batch size, at least two."""
    quartiles = [statistics.quantiles(found, n=4, method="inclusive") for found in values.values()]
    middle = [second for _, second, _ in quartiles]
    below = [second - first for first, second, _ in quartiles]
    above = [third - second for _, second, third in quartiles]
    axes.errorbar(list(values), middle, yerr=[below, above], marker="o", capsize=4, label=label)


if __name__ == "__main__":
    main()
