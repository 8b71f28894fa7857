"""What an operator scrapes, and what a refusal leaves in the log."""

import socket
from typing import Any

import httpx
import pytest
from loguru import logger
from prometheus_client.parser import text_string_to_metric_families

from text_generation_server.errors import InvalidSettingError
from text_generation_server.metrics import serve_metrics
from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.wire.limits import WireVersion

from .conftest import BATCH_SIZE, RunningShard
from .router_messages import prefill, request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        sample.name.removeprefix("tpu_tgi_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_tells_of_slots_requests_steps_and_refusals(running: RunningShard) -> None:
    port = free_port()
    serve_metrics(running.shard, port)
    idle = scrape(port)
    assert (idle["slots"], idle["slots_in_use"], idle["steps_in_flight"]) == (BATCH_SIZE, 0, 0)
    assert idle["compilations_after_warm_up_total"] == idle["refusals_total"] == 0
    assert "device_memory_used_bytes" not in idle, "this device does not tell"
    stub = running.stub(WireVersion.V3)
    requests = [request(index, "FOREVER", max_new_tokens=50) for index in range(BATCH_SIZE + 1)]
    stub.Prefill(prefill(0, *requests, request(9, "a", max_new_tokens=0)))
    busy = scrape(port)
    assert (busy["slots_in_use"], busy["requests_waiting"], busy["requests_parked"]) == (BATCH_SIZE, 1, 0)
    assert (busy["steps_in_flight"], busy["refusals_total"]) == (2, 1)
    stub.ClearCache(pb.ClearCacheRequest())
    assert (scrape(port)["slots_in_use"], scrape(port)["steps_in_flight"]) == (0, 0)


def test_a_port_that_is_taken_is_refused_by_name(running: RunningShard) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(InvalidSettingError, match="--metrics-port"):
            serve_metrics(running.shard, taken.getsockname()[1])


def test_a_refused_megabyte_is_one_short_line_of_the_log(running: RunningShard, stub: Any) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    huge = request(1, "a", stop_sequences=["x" * 2**20, ""])
    answer = stub.Prefill(prefill(0, request(0, "a"), huge))
    logger.remove(sink)
    (refusal,) = [line for line in lines if "refused" in line]
    assert "`stop`" in refusal
    assert len(refusal) < 1000
    assert max(len(each.generated_text.text) for each in answer.generations) < 1000
    assert running.shard.refusals == 1
