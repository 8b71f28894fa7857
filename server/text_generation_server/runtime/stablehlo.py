"""A recorded program as a JAX function. All that is private in JAX and used by this project stands in this file.

JAX calls functions of other frameworks through `jax.export.Exported`, which it can read from a file but offers no way
to make of StableHLO that it did not make itself: hence the fields that are set below. JAX is pinned narrowly;
tests/runtime/test_stablehlo.py fails if an upgrade changes what they mean.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from jax import export

from text_generation_server.lowering.lowered import LoweredProgram

LARGEST_LITERAL = 2**16
"""Bytes of a constant that is written into the program; larger ones stay arguments."""


@dataclass(frozen=True)
class CallOrder:
    """In which order a compiled program takes its parameters.

    Attributes:
        donated: places among the program's parameters whose buffers are given away, in the order of the results that
            take them over. JAX pairs donors and results of equal shape in this order: so each is paired by name.
        kept: places of the others that are passed.
        results: for each donor, the place of its result.
    """

    donated: tuple[int, ...]
    kept: tuple[int, ...]
    results: tuple[int, ...]


def call_order(program: LoweredProgram) -> CallOrder:
    pairs = [
        (result.succeeds, place)
        for place, result in enumerate(program.results)
        if result.succeeds is not None
    ]
    donated = tuple(parameter for parameter, _ in pairs)
    kept = tuple(
        place
        for place, parameter in enumerate(program.parameters)
        if place not in donated and not is_literal(program, place)
    )
    return CallOrder(donated, kept, tuple(result for _, result in pairs))


def is_literal(program: LoweredProgram, place: int) -> bool:
    parameter = program.parameters[place]
    return parameter.source == "constant" and parameter.nbytes <= LARGEST_LITERAL


def jitted(program: LoweredProgram, order: CallOrder) -> Any:
    """A jitted function of `order.donated + order.kept` that returns the results."""
    exported = as_exported(program)
    literals = {
        place: program.constants[parameter.name]
        for place, parameter in enumerate(program.parameters)
        if is_literal(program, place)
    }
    places = order.donated + order.kept

    def call(*arguments: Any) -> Any:
        values: dict[int, Any] = {**literals, **dict(zip(places, arguments, strict=True))}
        return exported.call(*(values[place] for place in range(len(program.parameters))))

    call.__name__ = program.name.replace(" ", "_")
    return jax.jit(call, donate_argnums=tuple(range(len(order.donated))), keep_unused=True)


def shapes(program: LoweredProgram, order: CallOrder, sharding: Any) -> list[jax.ShapeDtypeStruct]:
    """What `jitted` takes."""
    return [
        jax.ShapeDtypeStruct(parameter.shape, np.dtype(parameter.dtype), sharding=sharding)
        for parameter in (program.parameters[place] for place in order.donated + order.kept)
    ]


def as_exported(program: LoweredProgram) -> export.Exported:
    """The program as if JAX had exported it."""
    arguments = [jax.ShapeDtypeStruct(p.shape, np.dtype(p.dtype)) for p in program.parameters]
    model = export.export(jax.jit(lambda *given: given))(*arguments)
    results = tuple(jax.core.ShapedArray(r.shape, np.dtype(r.dtype)) for r in program.results)
    none = (None,) * len(results)
    return replace(
        model,
        fun_name=program.name,
        mlir_module_serialized=program.stablehlo,
        out_avals=results,
        out_tree=jax.tree.structure(tuple(range(len(results)))),
        out_shardings_hlo=none,
        _out_named_shardings=none,
        module_kept_var_idx=tuple(range(len(arguments))),
        uses_global_constants=False,
    )
