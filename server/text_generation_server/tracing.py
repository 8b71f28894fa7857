"""OpenTelemetry: a span for each RPC, sent to a collector (`--otlp-endpoint`).

Routers put the context of their own span into the call's metadata (protocol section 1.2), so that the spans of the
shard are children of the router's. Nothing here is imported unless an endpoint was given.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import server_interceptor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from text_generation_server.batching.requests import Generation

EXPORT_SECONDS = 2
"""For one export. A collector that is gone must not hold up the end of the process."""


@contextmanager
def traced_calls(endpoint: str, service_name: str) -> Iterator[grpc.ServerInterceptor]:
    """An interceptor that makes a span of each call. Arguments and end as with `exported_spans`."""
    with exported_spans(endpoint, service_name) as provider:
        yield server_interceptor(tracer_provider=provider)


def note_end(generation: Generation) -> None:
    """An event on the span of the call that answers the last token of a request: the requests of a call are many."""
    end = generation.finished
    assert end is not None
    trace.get_current_span().add_event(
        "request ended",
        {
            "request_id": generation.request_id,
            "finish_reason": end.finish_reason.value,
            "generated_tokens": end.generated_tokens,
            "drafted_tokens": generation.drafted,
            "accepted_tokens": generation.accepted,
        },
    )


@contextmanager
def exported_spans(endpoint: str, service_name: str) -> Iterator[TracerProvider]:
    """A provider whose spans are sent to a collector; leaving the context sends those that were not sent yet.

    Args:
        endpoint: of a collector that takes OTLP over gRPC, with or without `http://`. As with TGI's own server the
            connection is not encrypted.
    """
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service_name}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider
    finally:
        provider.shutdown()
