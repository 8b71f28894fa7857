"""Spans of the router, as OpenTelemetry's own exporter in memory sees them, and what the shard is told of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from front.conftest import StartFront
from front.fake_shard import FakeShard
from front.running_front import RunningFront, running_front, wait_until
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.router.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@dataclass
class TracedFront:
    front: RunningFront
    exporter: InMemorySpanExporter

    def spans(self, name: str, count: int) -> list[ReadableSpan]:
        """Those of a name, once there are so many: the span of a request ends after its answer."""
        wait_until(lambda: len(self._named(name)) >= count)
        return self._named(name)

    def _named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traced(model_directory: Path, tmp_path: Path) -> Iterator[TracedFront]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    shard = FakeShard(str(tmp_path / "shard-0"), step_seconds=0.02)
    settings = RouterSettings(model_id=str(model_directory), compute_type="1-fake")
    with running_front(shard, settings, Tracing(provider)) as front:
        exporter.clear()
        yield TracedFront(front, exporter)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_trace_goes_from_the_client_through_the_router_to_the_shard(traced: TracedFront, path: str) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 3}}
    assert traced.front.client.post(path, json=body, headers=HEADERS).status_code == 200
    (request,) = traced.spans(f"POST {path}", 1)
    (prefill,) = traced.spans("prefill", 1)
    decodes = traced.spans("decode", 2)
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    for span in (prefill, *decodes):
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
    told = [
        sent for sent in traced.front.shard.traceparents if sent[0] in ("PrefillRequest", "DecodeRequest")
    ]
    assert told == [
        (kind, f"00-{TRACE}-{span.context.span_id:016x}-01")
        for kind, span in zip(["PrefillRequest", *["DecodeRequest"] * 2], [prefill, *decodes], strict=True)
    ]
    # The request, and no span for each piece of the stream.
    of_request = [
        span for span in traced.exporter.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE
    ]
    assert len(of_request) == 4


def test_a_step_of_several_requests_is_linked_to_each(traced: TracedFront) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 20}}
    with ThreadPoolExecutor(3) as clients:
        list(clients.map(lambda _: traced.front.client.post("/generate", json=body), range(3)))
    requests = {span.context.span_id for span in traced.spans("POST /generate", 3)}
    together = [span for span in traced.spans("decode", 1) if len(span.links) == 2]
    assert together
    for span in together:
        assert span.parent is not None
        assert {span.parent.span_id} | {link.context.span_id for link in span.links} == requests
        assert span.attributes is not None
        assert span.attributes["batch_size"] == 3


def test_a_failed_call_marks_its_span(traced: TracedFront) -> None:
    assert traced.front.generate("fail-prefill").status_code == 424
    (prefill,) = traced.spans("prefill", 1)
    assert not prefill.status.is_ok


def test_probes_are_not_traced(traced: TracedFront) -> None:
    for path in ("/health", "/metrics", "/ping"):
        traced.front.client.get(path)
    traced.front.client.get("/info")
    # The fixture has asked for it too, and that span may have ended after the exporter was cleared.
    assert traced.spans("GET /info", 1)
    assert {span.name for span in traced.exporter.get_finished_spans()} == {"GET /info"}


def test_without_a_collector_the_shard_is_told_of_no_trace(start_front: StartFront) -> None:
    with start_front() as front:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
        assert front.client.post("/generate", json=body, headers=HEADERS).status_code == 200
        assert {traceparent for _, traceparent in front.shard.traceparents} == {None}
