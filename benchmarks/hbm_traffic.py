"""Counts what an optimised HLO program moves between HBM and the chip, from its text.

Each instruction of the entry computation reads its operands from HBM and writes its results there, unless they live
in on-chip memory. Inside a fusion, only what is used of an operand counts: a gather reads the rows that it gathers,
a dynamic-slice its slice, and an update in place (dynamic-update-slice, scatter) moves the update, not the whole.
Sizes are those of the device's tiles: a TPU pads the last two dimensions of an array, so that a cache with 64 numbers
per head takes, and moves, the bytes of 128.

Not counted: operands that are read again and again because they do not fit on the chip. A branch is refused, and a loop
of which the text does not say how often it runs, unless the caller does.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ITEM_BYTES = {
    **dict.fromkeys(("s4", "u4"), 0.5),
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}
FREE = {
    "parameter",
    "tuple",
    "bitcast",
    "get-tuple-element",
    "constant",
    "after-all",
    "copy-done",
    "slice-done",
}
FREE_CUSTOM_CALLS = ('"ConcatBitcast"', '"AllocateBuffer"')
# What these need of their first operand is what their own users need of them.
SAME_ELEMENTS = {"bitcast", "convert", "copy", "reshape", "transpose"}
SLICES = {"slice", "dynamic-slice", "gather"}
# Update in place -> which operand holds the update.
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
BODY = re.compile(r"body=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result: `size` in elements, `bytes` with the padding of its layout."""

    size: int
    bytes: int
    in_hbm: bool


@dataclass(frozen=True)
class Instruction:
    """One line of HLO. `called` is the computation of a fusion, or empty."""

    name: str
    op: str
    arrays: list[Array]
    operands: list[str]
    called: str
    line: str

    @property
    def size(self) -> int:
        return sum(array.size for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        return sum(array.bytes for array in self.arrays if array.in_hbm)


@dataclass
class Computation:
    """Instructions by name, parameters by number."""

    instructions: dict[str, Instruction] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)
    root: str = ""

    def uses(self, name: str) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that has `name` as an operand, and as which one."""
        for instruction in self.instructions.values():
            for place, operand in enumerate(instruction.operands):
                if operand == name:
                    yield instruction, place


@dataclass(frozen=True)
class Traffic:
    """Bytes that one instruction of the entry computation moves."""

    instruction: str
    op: str
    bytes: int


def hbm_traffic(hlo: str, unknown_trips: int | None = None) -> list[Traffic]:
    """The instructions of an optimised HLO module that move anything, largest first.

    Args:
        unknown_trips: how often loops run of which the text does not say it.

    Raises:
        ValueError: the program has a call, or a loop of which nobody says how often it runs.
    """
    counter = Module(hlo, unknown_trips)
    moves = [
        Traffic(i.name, i.op, counter.moved(counter.entry, i)) for i in counter.entry.instructions.values()
    ]
    return sorted((move for move in moves if move.bytes), key=lambda move: -move.bytes)


def branches(line: str) -> list[str]:
    """The computations of which a conditional runs one."""
    return [
        name.strip().removeprefix("%")
        for several, one in BRANCHES.findall(line)
        for name in (several or one).split(",")
    ]


def trips(loop: Instruction, unknown: int | None) -> int:
    """How often the body of a loop runs. Raises ValueError if neither the text nor `unknown` says it."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(known[1])
    if unknown is None:
        raise ValueError(f"{loop.op} {loop.name}: how often its body runs is not known")
    return unknown


class Module:
    """The computations of one module, and what their instructions read and write."""

    def __init__(self, hlo: str, unknown_trips: int | None = None) -> None:
        self._unknown_trips = unknown_trips
        self.computations: dict[str, Computation] = {}
        self.entry = computation = Computation()
        for line in hlo.splitlines():
            if header := COMPUTATION.match(line):
                computation = self.computations[header[2]] = Computation()
                if header[1]:
                    self.entry = computation
            elif found := INSTRUCTION.match(line):
                instruction = parse_instruction(found[2], found[3])
                computation.instructions[instruction.name] = instruction
                if found[1]:
                    computation.root = instruction.name
                if instruction.op == "parameter":
                    computation.parameters[int(instruction.line.split("parameter(")[1].split(")")[0])] = (
                        found[2]
                    )

        bodies = [*re.findall(BODY, hlo), *branches(hlo)]
        self._outside_fusions = [
            self.entry,
            *(self.computations[name] for name in bodies if name in self.computations),
        ]

    def moved_by(self, computation: Computation) -> int:
        """Bytes that a body or a branch moves when it runs once."""
        return sum(self.moved(computation, instruction) for instruction in computation.instructions.values())

    def moved(self, computation: Computation, instruction: Instruction) -> int:
        """Bytes that one instruction of the entry computation, or of the body of a loop, reads and writes."""
        if instruction.op in FREE or any(target in instruction.line for target in FREE_CUSTOM_CALLS):
            return 0
        if instruction.op == "while":
            count = trips(instruction, self._unknown_trips)
            body = self.computations[re.findall(BODY, instruction.line)[0]]
            return count * self.moved_by(body)
        if instruction.op == "conditional":
            # The dearest branch: what the others move is less.
            return max(self.moved_by(self.computations[name]) for name in branches(instruction.line))
        if instruction.op == "call":
            raise ValueError(f"{instruction.op} {instruction.name}: what it moves is not known")
        if instruction.op in ("copy-start", "slice-start"):
            # The result holds both ends of the transfer, then a token; what moves is the smaller end.
            ends = instruction.arrays[:2]
            return min(ends, key=lambda end: end.size).bytes * sum(end.in_hbm for end in ends)
        read = 0.0
        for place, operand in enumerate(instruction.operands):
            source = computation.instructions[operand]
            if source.hbm_bytes and operand not in instruction.operands[:place]:
                read += source.hbm_bytes * self.read_by(computation, source, instruction)
        return round(read + self.written(computation, instruction))

    def _outside(self, computation: Computation) -> bool:
        """Whether it is no body of a fusion."""
        return any(computation is each for each in self._outside_fusions)

    def read_by(self, computation: Computation, source: Instruction, user: Instruction) -> float:
        """The part of `source` that one of its users reads, 0 to 1."""
        part = 0.0
        for place, operand in enumerate(user.operands):
            if operand != source.name:
                continue
            if user.op == "fusion":
                body = self.computations[user.called]
                part += self.read_in(body, body.instructions[body.parameters[place]])
            elif place == 0 and user.op in SLICES:
                part += user.size / source.size
            elif place == 0 and user.op in UPDATES:
                part += self.read_in(computation, user) if not self._outside(computation) else 0.0
            elif user.op == "tuple" and self.is_update(computation, source):
                part += 0.0
            elif user.op in SAME_ELEMENTS and not self._outside(computation):
                part += self.read_in(computation, user)
            else:
                part += 1.0
        return min(part, 1.0)

    def read_in(self, body: Computation, source: Instruction) -> float:
        """The part of a value that the rest of a fusion's body reads, 0 to 1."""
        leaves = source.name == body.root and not self.is_update(body, source)
        users = {user.name: user for user, _ in body.uses(source.name)}.values()
        part = sum(self.read_by(body, source, user) for user in users)
        return min(part + leaves, 1.0)

    def is_update(self, body: Computation, value: Instruction) -> bool:
        """True for the result of an update in place: what of it leaves the fusion is there already."""
        if value.op == "bitcast":
            return self.is_update(body, body.instructions[value.operands[0]])
        return value.op in UPDATES

    def written(self, computation: Computation, instruction: Instruction) -> float:
        """Bytes that an instruction of the entry computation writes."""
        if instruction.op == "fusion":
            body = self.computations[instruction.called]
            root = body.instructions[body.root]
            if root.op == "tuple":
                parts = [self.part_written(body, body.instructions[name]) for name in root.operands]
                return sum(
                    array.bytes * part
                    for array, part in zip(instruction.arrays, parts, strict=True)
                    if array.in_hbm
                )
        return instruction.hbm_bytes * self.part_written(computation, instruction)

    def part_written(self, computation: Computation, instruction: Instruction) -> float:
        """The part of a result that is written, 0 to 1: of an update in place, the update."""
        if instruction.op in UPDATES:
            update = computation.instructions[instruction.operands[UPDATES[instruction.op]]]
            return update.size / instruction.size
        if instruction.op == "bitcast":
            return self.part_written(computation, computation.instructions[instruction.operands[0]])
        if instruction.op == "fusion":
            body = self.computations[instruction.called]
            return self.part_written(body, body.instructions[body.root])
        return 1.0


def parse_instruction(name: str, text: str) -> Instruction:
    """`text` is what stands after the equals sign: shape, operation, operands, attributes."""
    cut = closing(text) + 1 if text.startswith("(") else text.index(" ")
    op, rest = text[cut:].strip().split("(", 1)
    operands = rest[: closing("(" + rest) - 1]
    called = re.search(r"calls=%?([\w.\-]+)", rest)
    return Instruction(
        name,
        op,
        parse_arrays(text[:cut]),
        re.findall(r"%([\w.\-]+)", operands),
        called[1] if called else "",
        text,
    )


def closing(text: str) -> int:
    """Index of the parenthesis that closes the one at text[0]."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def parse_arrays(shape: str) -> list[Array]:
    """The arrays of an HLO shape, for example `(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, f32[])`."""
    arrays = []
    for dtype, dimensions, layout in ARRAY.findall(shape):
        if dtype not in ITEM_BYTES:
            continue
        sizes = [int(size) for size in dimensions.split(",") if size]
        # A layout: the order of the dimensions, last first; T(...) the tile; S(n) on-chip memory n.
        order, _, attributes = layout.partition(":")
        padded = [sizes[int(dimension)] for dimension in order.split(",") if dimension] or sizes
        if tile := re.match(r"T\(([\d,]+)\)", attributes):
            for place, step in enumerate(reversed(tile[1].split(","))):
                if place < len(padded):
                    padded[place] = math.ceil(padded[place] / int(step)) * int(step)
        arrays.append(
            Array(math.prod(sizes), int(math.prod(padded) * ITEM_BYTES[dtype]), "S(" not in attributes)
        )
    return arrays
