"""Which programs an engine has, by name, and how each is built. Listing them needs no torch.

To add a program, write it in `programs/` and give its kind a line in `names` and in `build`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from text_generation_server.engine.buckets import PieceShape, decode_lengths, piece_shapes
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import BatchShape
from text_generation_server.sampling.parameters import Processing, WatermarkStrength

if TYPE_CHECKING:
    from text_generation_server.engine.program import Program


def names(shape: BatchShape, *, scores_prompts: bool) -> list[str]:
    """All programs, largest first, so that the longest compilations start first."""
    pieces = piece_shapes(shape.slots, shape.length, shape.chunk)[::-1]
    lengths = decode_lengths(shape.length)[::-1]
    processings = [processing.name.lower() for processing in reversed(Processing)]
    return [
        *(f"score {piece}" for piece in pieces if scores_prompts),
        *(f"extend {piece}" for piece in pieces),
        *(f"verify {length}" for length in lengths if shape.drafts),
        *(f"forward {length}" for length in lengths),
        *(f"steps {shape.steps}x{length}" for length in lengths if shape.steps),
        *(f"accept {processing}" for processing in processings if shape.drafts),
        *(f"choose {processing}" for processing in processings),
        "constrain",
        "rank",
        "seat",
        *(["park"] if shape.parks else []),
        *(f"admit {processing.name.lower()}" for processing in ADMISSIONS),
    ]


ADMISSIONS = (Processing.PENALTIES, Processing.NONE)
"""With the counts of the prompt, and without."""


def admission(processing: Processing) -> str:
    """The program that admits a request which asks for this."""
    return "admit none" if processing is Processing.NONE else "admit penalties"


LOOPED = (Processing.NONE, Processing.FILTERS)
"""The choices of which `steps` takes one. What the others do is rare, or is done by the second too."""


def parts(name: str) -> list[str]:
    """The programs that are recorded for this one: itself, or what the device is to run again and again, see
    `runtime.looping`.

    "steps 16x256": up to 16 times a `forward 256`, and one of the choices in LOOPED.
    """
    if kind_of(name) != "steps":
        return [name]
    return [f"forward {steps_and_length(name)[1]}", *(f"choose {each.name.lower()}" for each in LOOPED)]


def steps_and_length(name: str) -> tuple[int, int]:
    """Of a `steps`: how many it takes at most, and the length of the cache that each reads."""
    steps, length = name.partition(" ")[2].split("x")
    return int(steps), int(length)


def kind_of(name: str) -> str:
    """The name without its variant."""
    return name.partition(" ")[0]


def reads_model(name: str) -> bool:
    """Whether the program depends on the model, and not on the shape of the batch alone."""
    return kind_of(name) in ("extend", "score", "forward", "verify", "steps")


def shape_for(name: str, shape: BatchShape) -> BatchShape:
    """The shape with a neutral value for what the program does not look at, so that models which differ in nothing
    else share it."""
    # Steps are in the name of the programs that take several.
    shape = replace(shape, steps=0)
    if reads_model(name):
        return shape
    if kind_of(name) == "seat":
        return replace(shape, vocabulary=0, adapters=False, by_length=False, drafts=0, experts=False)
    rows = BatchShape(shape.slots, shape.length, shape.vocabulary, (), CacheLayout.HEADS, shape.dtype)
    return replace(rows, drafts=shape.drafts) if kind_of(name) == "accept" else rows


def build(name: str, model: Any, shape: BatchShape, strength: WatermarkStrength) -> "Program":
    """The program of that name; `model` is a ServedModel. KeyError if there is no such kind."""
    from text_generation_server.engine.programs import choosing, prompts, steps

    kind, _, variant = name.partition(" ")
    # Nothing else can enter the program, since it is kept under this shape.
    shape = shape_for(name, shape)
    builders: dict[str, Callable[[], Program]] = {
        "seat": lambda: prompts.seat(shape),
        "park": lambda: prompts.park(shape),
        "extend": lambda: prompts.extend(model, shape, PieceShape.parse(variant)),
        "score": lambda: prompts.score(model, shape, PieceShape.parse(variant)),
        "admit": lambda: prompts.admit(shape, Processing[variant.upper()]),
        "forward": lambda: steps.forward(model, shape, int(variant)),
        "verify": lambda: steps.verify(model, shape, int(variant)),
        "accept": lambda: choosing.accept(shape, Processing[variant.upper()], strength),
        "choose": lambda: choosing.choose_next(shape, Processing[variant.upper()], strength),
        "constrain": lambda: choosing.constrain(shape),
        "rank": lambda: choosing.rank_tokens(shape),
    }
    return builders[kind]()
