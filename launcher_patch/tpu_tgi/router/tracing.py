"""OpenTelemetry: a span for each HTTP request, and one below it for each call to the shard that serves it.

OpenTelemetry's own middleware takes the `traceparent` of clients; calls to the shard carry it on, so that the shard's
spans are part of the client's trace.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from starlette.middleware import Middleware

UNTRACED = "/health$,/ping$,/metrics$"
"""Probes and scrapes, which come every few seconds."""


class Tracing:
    """Makes the spans; none without a provider."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("tpu_tgi.router")

    def middleware(self) -> list[Middleware]:
        """A span for each request, without one for each event of a stream."""
        if self._provider is None:
            return []
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return [
            Middleware(
                OpenTelemetryMiddleware,
                excluded_urls=UNTRACED,
                tracer_provider=self._provider,
                exclude_spans=["receive", "send"],
            )
        ]

    @contextmanager
    def shard_call(self, name: str, requests: Iterable[Context]) -> Iterator[None]:
        """The span of one call to the shard, which is below the first of its requests and linked to the others.

        Args:
            requests: the contexts in which the requests came.
        """
        if self._tracer is None:
            yield
            return
        contexts = list(requests)
        spans = [trace.get_current_span(context).get_span_context() for context in contexts]
        with self._tracer.start_as_current_span(
            name,
            context=contexts[0] if contexts else None,
            kind=trace.SpanKind.CLIENT,
            links=[trace.Link(span) for span in spans[1:] if span.is_valid],
            attributes={"batch_size": len(contexts)},
        ):
            yield


def call_metadata() -> list[tuple[str, str]]:
    """What tells the shard of the span that is current; empty without one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())
