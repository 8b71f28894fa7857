"""OpenTelemetry traces, as a collector receives them: over gRPC, read with OpenTelemetry's own messages."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc

from text_generation_server.pb import messages_pb2 as pb

from .router_messages import prefill, request
from .shard_process import connected, launcher_records, serving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    port: int = 0
    received: list[Any] = field(default_factory=list)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        self.received.extend(request.resource_spans)
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector
    server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_each_call_is_a_span_below_that_of_the_router(
    tmp_path: Path, collector: Collector, scheme: str
) -> None:
    flags = ["--otlp-endpoint", f"{scheme}127.0.0.1:{collector.port}", "--otlp-service-name", "my.service"]
    with serving(tmp_path, *flags) as (process, path), connected(path) as stub:
        stub.Info(pb.InfoRequest(), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")])
        with pytest.raises(grpc.RpcError, match="must not be empty"):
            stub.Prefill(pb.PrefillRequest())
        process.terminate()
        assert process.wait(10) == 0
    (resource,) = collector.received
    names = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert names["service.name"] == "my.service"
    info, refused = [span for scope in resource.scope_spans for span in scope.spans]
    assert info.name == "/generate.v3.TextGenerationService/Info"
    assert (info.trace_id.hex(), info.parent_span_id.hex()) == (TRACE, PARENT)
    codes = [{each.key: each.value.int_value for each in span.attributes} for span in (info, refused)]
    assert [attributes["rpc.grpc.status_code"] for attributes in codes] == [0, 3]


def test_the_end_of_each_request_is_told_with_its_drafts(tmp_path: Path, collector: Collector) -> None:
    flags = ["--otlp-endpoint", f"127.0.0.1:{collector.port}", "--speculate", "4", "--json-output"]
    flags += ["--logger-level", "DEBUG"]
    with serving(tmp_path, *flags) as (process, path), connected(path) as stub:
        copying, ending = request(7, "FOREVER", max_new_tokens=100), request(8, "y", max_new_tokens=9)
        batch = stub.Prefill(prefill(0, copying, ending)).batch
        while batch.size:
            batch = stub.Decode(pb.DecodeRequest(batches=[batch])).batch
        process.terminate()
        stdout, _ = process.communicate(timeout=10)
    spans = [span for each in collector.received for scope in each.scope_spans for span in scope.spans]
    events = [event for span in spans for event in span.events if event.name == "request ended"]
    told = [{each.key: each.value for each in event.attributes} for event in events]
    assert [(each["request_id"].int_value, each["generated_tokens"].int_value) for each in told] == [
        (8, 2),
        (7, 100),
    ]
    drafted, accepted = told[1]["drafted_tokens"].int_value, told[1]["accepted_tokens"].int_value
    assert 0 < accepted <= drafted < 100
    assert told[0]["drafted_tokens"].int_value == 0
    line = f"Request 7 ended: length, 100 tokens, {accepted} of {drafted} drafts accepted"
    assert ("DEBUG", line) in launcher_records(stdout)


def test_a_collector_that_cannot_be_reached_holds_nothing_up_and_is_mentioned(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--json-output", "--otlp-endpoint", "http://127.0.0.1:1") as (process, path),
        connected(path) as stub,
    ):
        stub.Info(pb.InfoRequest())
        started = time.monotonic()
        process.terminate()
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert time.monotonic() - started < 10
    assert any("127.0.0.1:1" in text for _, text in launcher_records(stdout))
    assert stderr == ""
