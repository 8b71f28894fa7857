"""Which programs an engine has, by name, and how each is built. Listing them needs no torch.

To add a program, write it in `programs.py` and give its kind a line in VARIANTS and in `build`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from text_generation_server.engine.buckets import decode_lengths, prefill_buckets
from text_generation_server.engine.state import BatchShape
from text_generation_server.sampling.parameters import Processing, WatermarkStrength

if TYPE_CHECKING:
    from text_generation_server.engine.program import Program


def names(shape: BatchShape, *, scores_prompts: bool) -> list[str]:
    """All programs, largest first, so that the longest compilations start first."""
    prefills, rows = prefill_buckets(shape.length)[::-1], sorted({1, shape.slots})
    processings = [processing.name.lower() for processing in reversed(Processing)]
    return [
        *(f"prefill {bucket}" for bucket in prefills),
        *(f"score prompt {bucket}" for bucket in prefills if scores_prompts),
        *(f"forward {length}" for length in decode_lengths(shape.length)[::-1]),
        *(f"admit {processing}" for processing in processings),
        *(f"choose {processing}" for processing in processings),
        *(f"constrain {count}" for count in rows),
        *(f"rank {count}" for count in rows),
    ]


def reads_model(name: str) -> bool:
    """Whether the program depends on the model, and not on the shape of the batch alone."""
    return name.rpartition(" ")[0] in ("prefill", "score prompt", "forward")


def build(name: str, model: Any, shape: BatchShape, strength: WatermarkStrength) -> "Program":
    """The program of that name; `model` is a ServedModel. KeyError if there is no such kind."""
    from text_generation_server.engine import programs

    kind, _, variant = name.rpartition(" ")
    builders: dict[str, Callable[[], Program]] = {
        "prefill": lambda: programs.prefill(model, shape, int(variant)),
        "score prompt": lambda: programs.score_prompt(model, shape, int(variant)),
        "forward": lambda: programs.forward(model, shape, int(variant)),
        "admit": lambda: programs.admit(shape, Processing[variant.upper()], strength),
        "choose": lambda: programs.choose_next(shape, Processing[variant.upper()], strength),
        "constrain": lambda: programs.constrain(shape, int(variant)),
        "rank": lambda: programs.rank_tokens(shape, int(variant)),
    }
    return builders[kind]()
