"""Are the engine's programs fit for several chips? Asks the TPU compiler of production (`make tpu-check`).

    python -m benchmarks.tpu_check_chips                              # all subjects, all programs
    python -m benchmarks.tpu_check_chips --subject gemma-2b --decode  # only what a decode step runs

As `benchmarks.tpu_check`, for the chips of a whole host. Bounds of a decode step: two all-reduces a layer and three
more collectives; traffic on each chip at most 1.1 of its share of the ideal; all of the cache updated in place. Where
the chips do not divide the key heads, the cache is split by slots, and four gathers a layer bring queries, keys, values
and the result where they are needed.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks import tpu_check  # First: it sets what libtpu reads when it is loaded.

# isort: split
from jax.experimental import topologies

from benchmarks.collectives import KINDS, collectives
from benchmarks.hbm_traffic import hbm_traffic
from benchmarks.report import table
from benchmarks.tpu_check import Subject, ideal_step, megabytes, most_trips, recorded
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.sharding import CacheSplit, Sharding
from text_generation_server.loading.chips import ModelArrays
from text_generation_server.lowering.loop import Loop
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.model.quantisation.scheme import INT8
from text_generation_server.runtime.executable import COMPILER_OPTIONS, placements
from text_generation_server.runtime.mesh import DeviceMesh, mesh_of
from text_generation_server.runtime.stablehlo import call_order, jitted, shapes

MOST_TRAFFIC = 1.1
MORE_COLLECTIVES = 3
BY_LAYER = {CacheSplit.HEADS: 2, CacheSplit.SLOTS: 6}

SUBJECTS = [
    (Subject("llama-3.1-8b", tpu_check.LLAMA_3_1_8B, 16, 1024, {}), "v5e:2x2"),
    (Subject("llama-3.1-8b", tpu_check.LLAMA_3_1_8B, 32, 2048, {}), "v5e:2x4"),
    (Subject("gemma-2b", tpu_check.GEMMA_2B, 32, 2048, {}), "v5e:2x4"),
    (Subject("qwen2.5-1.5b", tpu_check.QWEN_2_5_1_5B, 32, 2048, {}), "v5e:2x4"),
    (Subject("llama-3.3-70b", tpu_check.LLAMA_3_70B, 32, 2048, {}), "v6e:2x4"),
    (
        Subject(
            "llama-3.1-8b, 128k",
            tpu_check.LLAMA_3_1_8B,
            4,
            131072,
            {},
            ("extend 1x512", "forward 131072", "choose none"),
            made=INT8,
        ),
        "v5e:2x4",
    ),
    (Subject("mixtral-8x7b", tpu_check.MIXTRAL_8X7B, 32, 2048, {}), "v5e:2x4"),
    # Of few slots a loop reads the experts that were chosen, and of many all are read.
    (Subject("qwen3-30b-a3b", tpu_check.QWEN3_30B_A3B, 8, 2048, {}), "v6e:2x2"),
    (Subject("qwen3-30b-a3b", tpu_check.QWEN3_30B_A3B, 32, 2048, {}), "v6e:2x2"),
]


@dataclass(frozen=True)
class Judged:
    """What the compiler made of one program, on each chip; bytes."""

    program: str
    seconds: float
    arguments: int
    donated: int
    aliased: int
    temporaries: int
    collectives: Counter[str]
    traffic: int


def judge(program: LoweredProgram | Loop, mesh: DeviceMesh, sharding: Sharding, unknown_trips: int) -> Judged:
    order, places = call_order(program), placements(program, mesh, sharding)
    started = time.perf_counter()
    lowered = jitted(program, order, places, "tpu").lower(*shapes(program, order, places))
    compiled = lowered.compile(compiler_options=COMPILER_OPTIONS["tpu"])
    seconds = time.perf_counter() - started
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    donors = [program.parameters[place] for place in order.donated]
    return Judged(
        program.name,
        seconds,
        memory.argument_size_in_bytes,
        sum(each.nbytes // sharding.parts(sharding.array(each.name, each.shape)) for each in donors),
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        collectives(hlo, unknown_trips=unknown_trips),
        sum(part.bytes for part in hbm_traffic(hlo, unknown_trips=unknown_trips)),
    )


def row(judged: Judged) -> list[str]:
    whole = "all" if judged.aliased >= judged.donated else "NOT all"
    return [
        judged.program,
        f"{judged.seconds:.1f}",
        megabytes(judged.arguments),
        f"{megabytes(judged.aliased)} ({whole})",
        megabytes(judged.temporaries),
        *(str(judged.collectives[kind] or "") for kind in KINDS),
        megabytes(judged.traffic),
    ]


def check(subject: Subject, topology: str, *, decode: bool) -> list[str]:
    """Prints a table; returns the bounds that are missed, in words."""
    names = (f"forward {subject.length}", "choose none")
    devices: list[Any] = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    description, programs = recorded(
        Subject(**{**vars(subject), "programs": names if decode else subject.programs}), len(devices)
    )
    mesh = mesh_of(devices)
    sharding = ModelArrays(description, CacheLayout.LANES, {}).sharding(len(devices))
    title = (
        f"{subject.name}, B={subject.slots}, S={subject.length}, each of {len(devices)} chips of {topology}, "
        f"cache split by {sharding.cache.value}"
    )
    print(f"\n{title}\n", flush=True)
    verdicts = {
        each.name: judge(each, mesh, sharding, most_trips(description, each.name, subject.length))
        for each in programs
    }
    missed = [
        f"{title}: {verdict.program} updates {verdict.aliased} of {verdict.donated} donated bytes in place"
        for verdict in verdicts.values()
        if verdict.aliased < verdict.donated
    ]
    forward, choose = (verdicts[name] for name in names)
    step = forward.collectives + choose.collectives
    ideal = ideal_step(description, subject) / len(devices)
    ratio = (forward.traffic + choose.traffic) / ideal
    most = BY_LAYER[sharding.cache] * len(description.layers) + MORE_COLLECTIVES
    rows = [row(verdict) for verdict in verdicts.values()]
    total = [str(step[kind] or "") for kind in KINDS]
    moved = f"{megabytes(forward.traffic + choose.traffic)}, {ratio:.2f} of the ideal"
    rows.append(["decode step, greedy", "", "", "", "", *total, moved])
    headings = ["program", "compile s", "arguments", "aliased", "temporaries", *KINDS, "HBM traffic"]
    print(table(headings, rows), flush=True)
    if step.total() > most:
        missed.append(f"{title}: {step.total()} collectives in a decode step, above {most}")
    if ratio > MOST_TRAFFIC:
        missed.append(f"{title}: a decode step moves {ratio:.2f} of the ideal, above {MOST_TRAFFIC}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", action="append", choices=sorted({each.name for each, _ in SUBJECTS}))
    parser.add_argument("--decode", action="store_true", help="only the programs of a greedy decode step")
    arguments = parser.parse_args()
    missed = []
    for subject, topology in SUBJECTS:
        if not arguments.subject or subject.name in arguments.subject:
            missed += check(subject, topology, decode=arguments.decode)
    if missed:
        sys.exit("Bounds missed:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
