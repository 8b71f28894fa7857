"""The HTTP routes, one module each. A new one is served and documented once it stands in `OPERATIONS`."""

from tpu_tgi.router.operation import Operation
from tpu_tgi.router.routes import compat, docs, generate, generate_stream, health, info, metrics

OPERATIONS: tuple[Operation, ...] = (
    compat.OPERATION,
    generate.OPERATION,
    generate_stream.OPERATION,
    *health.OPERATIONS,
    info.OPERATION,
    metrics.OPERATION,
    *docs.OPERATIONS,
)
