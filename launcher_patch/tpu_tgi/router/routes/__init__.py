"""The HTTP routes, one module each. A new one is served and documented once it stands in `OPERATIONS`."""

from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.routes import (
    chat_completions,
    chat_tokenize,
    compat,
    completions,
    docs,
    generate,
    generate_stream,
    health,
    info,
    invocations,
    metrics,
    models,
    tokenize,
)

OPERATIONS: tuple[Operation, ...] = (
    compat.OPERATION,
    generate.OPERATION,
    generate_stream.OPERATION,
    chat_completions.OPERATION,
    completions.OPERATION,
    invocations.OPERATION,
    tokenize.OPERATION,
    chat_tokenize.OPERATION,
    *health.OPERATIONS,
    info.OPERATION,
    models.OPERATION,
    metrics.OPERATION,
    *docs.OPERATIONS,
)
