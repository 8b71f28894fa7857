"""Puts the functions of `runtime.kernels` where a recorded program calls one by name."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from text_generation_server.lowering.lowered import KERNEL
from text_generation_server.runtime.kernels import KERNELS, OF_CHIPS

DTYPES = (
    "bool", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2"
)  # fmt: skip


def link(module: Any, chips: int) -> None:
    """Replaces each call of a kernel by a call of its function, which is added to the module.

    Equal calls share a function, but not of several chips: the partitioner gives a collective in it one channel, which
    all of them would have in common.

    A kernel returns what its function does, whatever was recorded: of a cache in fp8, that is int8. What is taken from
    such results without looking at them gets their type too.

    KeyError for a kernel that does not exist. To be called in the context of the module.

    Args:
        chips: that the module will be compiled for.
    """
    dtypes = {str(mlir.dtype_to_ir_type(np.dtype(name))): np.dtype(name) for name in DTYPES}
    lowered: dict[tuple[Any, ...], str] = {}
    functions: dict[tuple[Any, ...], tuple[str, list[Any]]] = {}
    added = 0
    for operation in list(operations(module.body)):
        if operation.name in SAME_ELEMENTS:
            follow(operation)
        if operation.name != "stablehlo.custom_call":
            continue
        target = ir.StringAttr(operation.attributes["call_target_name"]).value
        if not target.startswith(KERNEL):
            continue
        options = ir.StringAttr(operation.attributes["backend_config"]).value
        types = [str(operand.type) for operand in operation.operands]
        key = (target, options, *types)
        if key not in lowered:
            arguments = [
                jax.ShapeDtypeStruct(tuple(array.shape), dtypes[str(array.element_type)])
                for array in (ir.RankedTensorType(operand.type) for operand in operation.operands)
            ]
            kind = target.removeprefix(KERNEL)
            known = {"chips": chips} if kind in OF_CHIPS else {}
            kernel = partial(KERNELS[kind], **json.loads(options), **known)
            jitted = jax.jit(kernel, keep_unused=True).lower(*arguments)
            lowered[key] = str(jitted.compiler_ir("stablehlo"))
        if key not in functions or chips > 1:
            functions[key] = add_function(module, f"{target}.{added}", lowered[key])
            added += 1
        name, results = functions[key]
        with ir.InsertionPoint(operation), operation.location:
            call = func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(operation.operands))
        for old, new in zip(operation.results, call.operation.results, strict=True):
            old.replace_all_uses_with(new)
        operation.erase()


def add_function(module: Any, name: str, lowered: str) -> tuple[str, list[Any]]:
    """Adds what JAX made of a kernel, and the functions that it calls, under names that begin with `name`.

    Returns the name of the kernel's function, and the types that it returns.
    """
    # It owns the functions until they are moved: without a name it would be gone before.
    parsed = ir.Module.parse(lowered)
    added = list(parsed.body.operations)
    names = {symbol(function, "sym_name"): f"{name}.{symbol(function, 'sym_name')}" for function in added}
    results: list[Any] = []
    for function in added:
        if symbol(function, "sym_name") == "main":
            results = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value).results
        function.attributes["sym_name"] = ir.StringAttr.get(names[symbol(function, "sym_name")])
        function.attributes["sym_visibility"] = ir.StringAttr.get("private")
        for block in function.regions[0].blocks:
            for inner in operations(block):
                if inner.name == "func.call":
                    callee = ir.FlatSymbolRefAttr(inner.attributes["callee"]).value
                    inner.attributes["callee"] = ir.FlatSymbolRefAttr.get(names[callee])
        module.body.append(function)
    return names["main"], results


SAME_ELEMENTS = ("stablehlo.slice", "stablehlo.gather", "stablehlo.reshape", "stablehlo.transpose")
"""Operations whose results are elements of their first operand."""


def follow(operation: Any) -> None:
    """Gives the result of one of SAME_ELEMENTS the type of its elements, where that was not the recorded one."""
    (result,) = operation.results
    element = ir.RankedTensorType(operation.operands[0].type).element_type
    result.set_type(ir.RankedTensorType.get(ir.RankedTensorType(result.type).shape, element))


def symbol(operation: Any, attribute: str) -> str:
    value: str = ir.StringAttr(operation.attributes[attribute]).value
    return value


def operations(block: Any) -> Iterator[Any]:
    """All operations in a block, those in functions and bodies too."""
    for view in block.operations:
        yield view.operation
        for region in view.regions:
            for inner in region.blocks:
                yield from operations(inner)
