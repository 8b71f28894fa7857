"""What becomes of the marks in a recorded program (`engine.marks`) for so many chips."""

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from text_generation_server.engine.sharding import AXES, Partition, Sharding
from text_generation_server.lowering.lowered import MARK
from text_generation_server.runtime.linking import operations


def resolve_marks(module: Any, sharding: Sharding) -> None:
    """Replaces each mark by the constraints that it stands for, in turn. To be called in the module's context."""
    for operation in list(operations(module.body)):
        if operation.name != "stablehlo.custom_call":
            continue
        if ir.StringAttr(operation.attributes["call_target_name"]).value != MARK:
            continue
        value = operation.operands[0]
        name = ir.StringAttr(operation.attributes["backend_config"]).value
        with ir.InsertionPoint(operation), operation.location:
            for partition in sharding.mark(name, ir.RankedTensorType(value.type).shape):
                value = constrained(value, partition, sharding.chips)
        operation.results[0].replace_all_uses_with(value)
        operation.erase()


def pass_by_joins(module: Any) -> None:
    """Takes a part of what was joined from what it was joined of: joined along a split dimension, it would have to be
    gathered. To be called in the module's context.
    """
    for operation in list(operations(module.body)):
        if operation.name != "stablehlo.slice":
            continue
        joined = operation.operands[0].owner
        if getattr(joined, "name", None) != "stablehlo.concatenate":
            continue
        dimension = ir.IntegerAttr(joined.attributes["dimension"]).value
        start = list(ir.DenseI64ArrayAttr(operation.attributes["start_indices"]))[dimension]
        wanted = operation.results[0].type
        at = 0
        for part in joined.operands:
            if at == start and part.type == wanted:
                operation.results[0].replace_all_uses_with(part)
                operation.erase()
                break
            at += ir.RankedTensorType(part.type).shape[dimension]


def constrained(value: Any, partition: Partition, chips: int) -> Any:
    """The value where it is split so, over a mesh of one replica."""
    rank = ir.RankedTensorType(value.type).rank
    mesh = sdy.MeshAttr.get(
        [sdy.MeshAxisAttr.get(axis, size) for axis, size in zip(AXES, (1, chips), strict=True)]
    )
    dimensions = [
        sdy.DimensionShardingAttr.get([sdy.AxisRefAttr.get(axis)] if axis else [], is_closed=True)
        for axis in (*partition, *[None] * (rank - len(partition)))
    ]
    return sdy.ShardingConstraintOp(value, sdy.TensorShardingAttr.get(mesh, dimensions)).result
