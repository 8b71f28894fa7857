"""A recorded program as a JAX function. All that is private in JAX and used by this project stands in this file.

JAX calls functions of other frameworks through `jax.export.Exported`, which it can read from a file but offers no way
to make of StableHLO that it did not make itself: hence the fields that are set below. JAX is pinned narrowly;
tests/runtime/test_programs.py fails if an upgrade changes what they mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from jax import export
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from text_generation_server.engine.sharding import Sharding
from text_generation_server.lowering.loop import Loop
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.runtime.linking import SAME_ELEMENTS, link, operations, symbol
from text_generation_server.runtime.looping import looped
from text_generation_server.runtime.marks import pass_by_joins, resolve_marks

# Recorded programs have int64 indices, which JAX would otherwise make int32.
jax.config.update("jax_enable_x64", True)

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


def call_order(program: LoweredProgram | Loop) -> CallOrder:
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


def is_literal(program: LoweredProgram | Loop, place: int) -> bool:
    parameter = program.parameters[place]
    return parameter.source == "constant" and parameter.nbytes <= LARGEST_LITERAL


@dataclass(frozen=True)
class Placements:
    """Where the arrays of a program lie.

    Attributes:
        sharding: by name.
        parameters, results: the jax.sharding.Sharding of each, or a Format with a layout too.
    """

    sharding: Sharding
    parameters: tuple[Any, ...]
    results: tuple[Any, ...]


def jitted(
    program: LoweredProgram | Loop, order: CallOrder, places: Placements, platform: str | None = None
) -> Any:
    """A jitted function of `order.donated + order.kept` that returns the results.

    `platform`: for which it will be compiled, if not for JAX's own; "tpu" for a compiler without its device.
    """
    if isinstance(program, Loop):
        parts = (program.forward, *program.choices)
        function = looped(program, {part.name: called(part, places.sharding, platform) for part in parts})
    else:
        function = called(program, places.sharding, platform)
    literals = {
        place: program.constants[parameter.name]
        for place, parameter in enumerate(program.parameters)
        if is_literal(program, place)
    }
    passed = order.donated + order.kept

    def call(*arguments: Any) -> Any:
        values: dict[int, Any] = {**literals, **dict(zip(passed, arguments, strict=True))}
        return function(*(values[place] for place in range(len(program.parameters))))

    call.__name__ = program.name.replace(" ", "_")
    return jax.jit(
        call,
        out_shardings=places.results,
        donate_argnums=tuple(range(len(order.donated))),
        keep_unused=True,
    )


def shapes(
    program: LoweredProgram | Loop, order: CallOrder, places: Placements
) -> list[jax.ShapeDtypeStruct]:
    """What `jitted` takes."""
    return [
        jax.ShapeDtypeStruct(
            program.parameters[place].shape,
            np.dtype(program.parameters[place].dtype),
            sharding=places.parameters[place],
        )
        for place in order.donated + order.kept
    ]


def called(program: LoweredProgram, sharding: Sharding, platform: str | None) -> Callable[..., Any]:
    """The program as a function of its parameters; `platform` as for `jitted`."""
    exported = as_exported(program, sharding)
    if platform is not None:
        exported = replace(exported, platforms=(platform,))
    function: Callable[..., Any] = exported.call
    return function


def starter(compiled: Any) -> Callable[[list[Any]], Sequence[Any]]:
    """What starts a compiled program, given all its arguments as arrays that lie where it wants them.

    JAX's own call looks at each argument each time, of which a forward of 30 layers has 334: that takes about as long
    as the rest of it.
    """
    executable = compiled._executable
    start, handlers = executable.xla_executable.execute_sharded, executable.unsafe_call.out_handler.handlers

    def run(arguments: list[Any]) -> Sequence[Any]:
        results: Sequence[Any] = start(arguments).consume_with_handlers(handlers)
        return results

    return run


def as_exported(program: LoweredProgram, sharding: Sharding) -> export.Exported:
    """The program as if JAX had exported it, with its marks as `sharding` means them."""
    arguments = [jax.ShapeDtypeStruct(p.shape, np.dtype(p.dtype)) for p in program.parameters]
    model = export.export(jax.jit(lambda *given: given))(*arguments)
    results = tuple(jax.core.ShapedArray(r.shape, np.dtype(r.dtype)) for r in program.results)
    none = (None,) * len(results)
    return replace(
        model,
        fun_name=program.name,
        mlir_module_serialized=completed(program, sharding),
        out_avals=results,
        out_tree=jax.tree.structure(tuple(range(len(results)))),
        out_shardings_hlo=none,
        _out_named_shardings=none,
        module_kept_var_idx=tuple(range(len(arguments))),
        uses_global_constants=False,
    )


SHORTEST_IOTA = 32
"""Constants of fewer numbers are left alone."""


def completed(program: LoweredProgram, sharding: Sharding) -> bytes:
    """The module with its marks resolved, kernels in the place of their names, counting done on the device, and the
    dtypes that torch_xla does not know."""
    context = mlir.make_ir_context()
    with context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, program.stablehlo)
        resolve_marks(module, sharding)
        if sharding.chips > 1:
            pass_by_joins(module)
        give_dtypes(module, program)
        link(module, sharding.chips)
        declare(module)
        count_on_the_device(module)
        # Shardings are of another dialect than StableHLO.
        changed: bytes = stablehlo.serialize_portable_artifact(
            module, stablehlo.get_current_version(), sharding.chips > 1
        )
    return changed


def count_on_the_device(module: Any) -> None:
    """Makes 0, 1, 2, ... the operation iota, where torch_xla wrote the numbers down.

    XLA would fold what is computed of such constants: the masks of a prompt of 2048 tokens became 300 MB of a
    compiled program, and took most of the time of its compilation.
    """
    for operation in list(operations(module.body)):
        if operation.name != "stablehlo.constant":
            continue
        result = operation.results[0]
        kind = ir.RankedTensorType(result.type)
        dimension = counts_up(kind, operation.attributes["value"])
        if dimension is None:
            continue
        with ir.InsertionPoint(operation):
            counted = stablehlo.IotaOp(kind, dimension)
        result.replace_all_uses_with(counted.operation.results[0])
        operation.erase()


UNTOUCHED = ("stablehlo.convert", "stablehlo.custom_call", "func.return", *SAME_ELEMENTS)
"""What may be done with a parameter whose dtype torch_xla does not know."""


def give_dtypes(module: Any, program: LoweredProgram) -> None:
    """Gives parameters that were recorded as int8 the dtype that they have on the device.

    What follows from them is left to `link` and `declare`. Raises RuntimeError if one is computed with: the result
    would be that of other numbers.
    """
    for argument, parameter in zip(main_block(module).arguments, program.parameters, strict=True):
        recorded = ir.RankedTensorType(argument.type)
        element = mlir.dtype_to_ir_type(np.dtype(parameter.dtype))
        if str(recorded.element_type) != "i8" or element == recorded.element_type:
            continue
        argument.set_type(ir.RankedTensorType.get(recorded.shape, element))
        if any(use.owner.name not in UNTOUCHED for use in argument.uses):
            raise RuntimeError(f"{program.name}: {parameter.name} is used before it is converted")


def declare(module: Any) -> None:
    """Says what the program takes and returns, which may differ from what was recorded."""
    block = main_block(module)
    kind = ir.FunctionType.get(
        [argument.type for argument in block.arguments],
        [operand.type for operand in block.operations[len(block.operations) - 1].operands],
    )
    block.owner.attributes["function_type"] = ir.TypeAttr.get(kind)


def main_block(module: Any) -> Any:
    """The body of the program."""
    for each in module.body.operations:
        if each.operation.name == "func.func" and symbol(each, "sym_name") == "main":
            return each.regions[0].blocks[0]
    raise KeyError("main")


def counts_up(kind: Any, value: Any) -> int | None:
    """The dimension along which a constant is 0, 1, 2, ..., if it has no other; else None."""
    long = [place for place, size in enumerate(kind.shape) if size > 1]
    if len(long) != 1 or kind.shape[long[0]] < SHORTEST_IOTA or value.is_splat:
        return None
    if str(kind.element_type) not in ("i32", "i64", "f32"):
        return None
    numbers = np.array(value).reshape(-1)
    return long[0] if np.array_equal(numbers, np.arange(len(numbers))) else None
