"""A program as StableHLO, for compilers that run elsewhere: `make tpu-check` gives it to the real TPU compiler."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch_xla.core.xla_model as xla_model
from torch import Tensor

from text_generation_server.engine.xla.compiled import Flat, Trace


@dataclass(frozen=True)
class ExportedProgram:
    """A program for another compiler.

    Attributes:
        stablehlo: the module as text.
        aliases: (parameter, output) pairs of the donated arguments and their successors.
    """

    stablehlo: str
    aliases: list[tuple[int, int]]


def export(function: Flat, arguments: Sequence[Tensor], donated: int) -> ExportedProgram:
    """Traces like `CompiledProgram`; argument i of the first `donated` is succeeded by output i.

    Raises:
        RuntimeError: donated arguments of equal size enter the graph in another order than their successors
            leave it. XLA pairs donors and outputs of equal size by order, so each would move through a copy.
    """
    with Trace(function, arguments) as trace:
        text = xla_model.get_stablehlo(trace.outputs)
        places = [place for place in range(trace.output_count) if place not in trace.passed]
        output_of = {place: output for output, place in enumerate(places) if place < donated}
        aliases = [
            (parameter, output_of[argument])
            for parameter, argument in enumerate(trace.parameters)
            if argument is not None and argument in output_of
        ]
        caches = [(output, arguments[places[output]]) for _, output in aliases if arguments[places[output]].ndim == 4]
    order = [output for output, _ in caches]
    if order != sorted(order):
        raise RuntimeError(f"cache tensors enter the program in the order {order}, not in that of their successors")
    return ExportedProgram(text, aliases)
