"""Are the engine's programs fit for a TPU? Asks the real TPU compiler, on any machine (`make tpu-check`).

    python -m benchmarks.tpu_check --compiler .venv-tpu-check/bin/python

Export and compilation are processes of their own: the first needs torch_xla, the second JAX and libtpu, and neither
should hold its memory while the other works. Files are left in out/tpu-check. Exits with 1 if a bound is missed.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import table

MODELS = ("smollm2", "llama3-8b-2-layers")
PROGRAMS = ("forward", "choose-none", "choose-everything", "prefill")
# A decode step is two programs.
STEPS = {"greedy": ("forward", "choose-none"), "everything": ("forward", "choose-everything")}
TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
OUTPUT = Path("out/tpu-check")

# The bounds hold for the decode steps of this model: its shape is the one that a TPU is bought for.
BOUND_MODEL = "llama3-8b-2-layers"
MOST_TEMPORARIES = 0.02
MOST_TRAFFIC = 1.2


@dataclass(frozen=True)
class Verdict:
    """One program on one topology: `facts` as tpu_export wrote them, `compiled` as tpu_compile printed it."""

    facts: dict[str, Any]
    compiled: dict[str, Any]

    @property
    def temporaries(self) -> float:
        """Of the arguments' size."""
        return float(self.compiled["temp_bytes"] / self.compiled["argument_bytes"])

    @property
    def all_aliased(self) -> bool:
        """Everything that was donated is updated in place."""
        return bool(self.compiled["alias_bytes"] >= self.facts["donated_bytes"])

    def row(self) -> list[str]:
        compiled = self.compiled
        return [
            self.facts["model"],
            compiled["topology"],
            self.facts["program"],
            f"{compiled['compile_seconds']:.1f}",
            megabytes(compiled["argument_bytes"]),
            f"{megabytes(compiled['alias_bytes'])} ({'all' if self.all_aliased else 'NOT all'})",
            f"{megabytes(compiled['temp_bytes'])} ({self.temporaries:.1%})",
            megabytes(compiled["hbm_traffic_bytes"]),
            f"{compiled['hbm_traffic_bytes'] / self.facts['ideal_bytes']:.2f}",
        ]


@dataclass(frozen=True)
class Step:
    """A decode step: the programs that it runs, the forward first."""

    name: str
    programs: list[Verdict]

    @property
    def traffic(self) -> int:
        return sum(program.compiled["hbm_traffic_bytes"] for program in self.programs)

    @property
    def traffic_over_ideal(self) -> float:
        """Over each weight once and the cache once: that the choice is a program of its own does not excuse it."""
        return float(self.traffic / self.programs[0].facts["ideal_bytes"])

    def row(self) -> list[str]:
        forward = self.programs[0]
        title = [forward.facts["model"], forward.compiled["topology"], f"decode step, {self.name}"]
        return [*title, "", "", "", "", megabytes(self.traffic), f"{self.traffic_over_ideal:.2f}"]

    def missed(self) -> list[str]:
        """The bounds that it misses, in words."""
        forward = self.programs[0]
        aliased, cache = forward.compiled["alias_bytes"], forward.facts["donated_bytes"]
        checks = [
            (forward.all_aliased, f"{aliased} bytes aliased, the cache has {cache}"),
            (
                forward.temporaries < MOST_TEMPORARIES,
                f"temporaries are {forward.temporaries:.1%} of the arguments, not below {MOST_TEMPORARIES:.0%}",
            ),
            (
                self.traffic_over_ideal <= MOST_TRAFFIC,
                f"HBM traffic is {self.traffic_over_ideal:.2f} of the ideal, above {MOST_TRAFFIC}",
            ),
        ]
        name = f"decode step, {self.name}, {forward.compiled['topology']}"
        return [f"{name}: {what}" for holds, what in checks if not holds]


HEADINGS = [
    "model",
    "topology",
    "program",
    "compile s",
    "arguments",
    "aliased",
    "temporaries",
    "HBM traffic",
    "/ ideal",
]


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def export(model: str) -> None:
    """Writes the model's programs to out/tpu-check/<model>."""
    command = [sys.executable, "-m", "benchmarks.tpu_export", model, str(OUTPUT / model)]
    subprocess.run(command, check=True)


def judge(compiler: Path, model: str, program: str, topology: str) -> Verdict:
    """Compiles one exported program."""
    stem = OUTPUT / model / program
    facts = json.loads(stem.with_suffix(".json").read_text())
    aliases = [f"{parameter}:{output}" for parameter, output in facts["aliases"]]
    hlo = f"{stem}-{topology.split(':')[0]}.hlo.txt"
    module = [str(stem.with_suffix(".mlir")), "--topology", topology, "--hlo", hlo, "--alias", *aliases]
    # The log of a compiler that finds no TPU is long and says nothing else; errors still come through.
    environment = {**os.environ, "TPU_MIN_LOG_LEVEL": "2", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(compiler), "-m", "benchmarks.tpu_compile", *module]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Verdict(facts, json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compiler", type=Path, required=True, help="a python with the group tpu-check installed"
    )
    compiler = parser.parse_args().compiler
    rows, missed = [], []
    for model in MODELS:
        print(f"Exporting {model}", file=sys.stderr)
        export(model)
        for topology in TOPOLOGIES:
            print(f"Compiling {model} for {topology}", file=sys.stderr)
            verdicts = {program: judge(compiler, model, program, topology) for program in PROGRAMS}
            steps = [
                Step(name, [verdicts[program] for program in programs]) for name, programs in STEPS.items()
            ]
            rows += [verdict.row() for verdict in verdicts.values()] + [step.row() for step in steps]
            if model == BOUND_MODEL:
                missed += [miss for step in steps for miss in step.missed()]
    print(table(HEADINGS, rows))
    bounds = f"whole cache aliased, temporaries < {MOST_TEMPORARIES:.0%}, traffic <= {MOST_TRAFFIC} of ideal"
    if missed:
        sys.exit(f"Bounds of {BOUND_MODEL} missed ({bounds}):\n" + "\n".join(missed))
    print(f"\nThe decode steps of {BOUND_MODEL} keep their bounds: {bounds}.")


if __name__ == "__main__":
    main()
