"""A program as StableHLO, for compilers that run elsewhere: `make tpu-check` gives it to the real TPU compiler."""

from dataclasses import dataclass

import torch_xla.core.xla_model as xla_model

from text_generation_server.engine.programs import Program
from text_generation_server.lowering.compiled import Trace


@dataclass(frozen=True)
class ExportedProgram:
    """A program for another compiler.

    Attributes:
        stablehlo: the module as text.
        aliases: (parameter, output) pairs of the donated arguments and their successors.
        donated_bytes: size of those arguments.
    """

    stablehlo: str
    aliases: list[tuple[int, int]]
    donated_bytes: int


def export(program: Program) -> ExportedProgram:
    """Traces like `CompiledProgram`, and pairs each donated argument with its own successor.

    Raises:
        RuntimeError: donated arguments of equal size enter the graph in another order than their successors
            leave it. XLA pairs donors and outputs of equal size by order, so each would move through a copy.
    """
    with Trace(program) as trace:
        text = xla_model.get_stablehlo(trace.outputs)
        places = [place for place in range(trace.output_count) if place not in trace.passed]
        output_of = {place: output for output, place in enumerate(places) if place < program.donated}
        aliases = [
            (parameter, output_of[argument])
            for parameter, argument in enumerate(trace.parameters)
            if argument is not None and argument in output_of
        ]
    donated = [(output, program.arguments[places[output]]) for _, output in aliases]
    order = [output for output, tensor in donated if tensor.ndim == 4]
    if order != sorted(order):
        raise RuntimeError(
            f"cache tensors enter the program in the order {order}, not in that of their successors"
        )
    return ExportedProgram(text, aliases, sum(tensor.nbytes for _, tensor in donated))
