"""Which collectives a compiled program runs on several chips, and how often, read from its optimised HLO."""

import re
from collections import Counter

from benchmarks.hbm_traffic import Computation, Module, trips

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CHANNEL = re.compile(r"channel_id=(\d+)")


def collectives(hlo: str, unknown_trips: int | None = None) -> Counter[str]:
    """By kind, how often they run; one in a loop counts as often as the loop runs.

    The compiler cuts a collective that runs beside other work into pieces in several fusions: they have one channel,
    and count once.

    Args:
        unknown_trips: for loops of which the text does not say how often they run.

    Raises:
        ValueError: there is such a loop, and no number for it.
    """
    module = Module(hlo)
    found: dict[tuple[str, str], int] = {}

    def walk(computation: Computation, times: int) -> None:
        for instruction in computation.instructions.values():
            kind = instruction.op.removesuffix("-start")
            if kind in KINDS:
                channel = CHANNEL.search(instruction.line)
                key = (kind, channel[1] if channel else instruction.name)
                found[key] = max(found.get(key, 0), times)
            called = CALLED.findall(instruction.line)
            called += [
                name.strip(" %") for names in BRANCHES.findall(instruction.line) for name in names.split(",")
            ]
            inner = times * trips(instruction, unknown_trips) if instruction.op == "while" else times
            for name in called:
                if name in module.computations:
                    walk(module.computations[name], inner)

    walk(module.entry, 1)
    counted: Counter[str] = Counter()
    for (kind, _), times in found.items():
        counted[kind] += times
    return counted
