"""GET /metrics, read by the parser of Prometheus' own client: the stock router's names, kinds and counts."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from front.conftest import StartFront
from front.running_front import RunningFront, wait_until
from tpu_tgi.router.metrics import Metrics


@dataclass(frozen=True)
class Scraped:
    """One answer of /metrics."""

    families: dict[str, Metric]

    def value(self, sample: str, **labels: str) -> float:
        """Of one sample; 0 if it is not there."""
        # The parser names the samples of counters as OpenMetrics would.
        names = (sample, f"{sample}_total")
        samples = [s for family in self.families.values() for s in family.samples]
        found = [s.value for s in samples if s.name in names and s.labels == labels]
        assert len(found) <= 1
        return found[0] if found else 0.0


def scrape(front: RunningFront) -> Scraped:
    response = front.client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    return Scraped({family.name: family for family in text_string_to_metric_families(response.text)})


def stream(front: RunningFront, inputs: str, **parameters: Any) -> httpx.Response:
    return front.client.post("/generate_stream", json={"inputs": inputs, "parameters": parameters})


def test_names_and_kinds_are_the_stock_ones_and_come_with_their_first_use(start_front: StartFront) -> None:
    with start_front() as front:
        assert front.client.get("/metrics").text == ""
        front.generate("a", max_new_tokens=3)
        assert {name: family.type for name, family in scrape(front).families.items()} == {
            "tgi_request_count": "counter",
            "tgi_request_success": "counter",
            "tgi_batch_inference_count": "counter",
            "tgi_batch_inference_success": "counter",
            "tgi_queue_size": "gauge",
            "tgi_batch_current_size": "gauge",
            "tgi_batch_current_max_tokens": "gauge",
            "tgi_batch_next_size": "histogram",
            "tgi_batch_inference_duration": "histogram",
            "tgi_batch_forward_duration": "histogram",
            "tgi_batch_decode_duration": "histogram",
            "tgi_batch_filter_duration": "histogram",
            "tgi_request_duration": "histogram",
            "tgi_request_validation_duration": "histogram",
            "tgi_request_queue_duration": "histogram",
            "tgi_request_inference_duration": "histogram",
            "tgi_request_mean_time_per_token_duration": "histogram",
            "tgi_request_generated_tokens": "histogram",
            "tgi_request_input_length": "histogram",
            "tgi_request_max_new_tokens": "histogram",
            "tgi_request_skipped_tokens": "summary",
        }
        text = front.client.get("/metrics").text
        assert "_total" not in text
        assert "_created" not in text


def test_one_request_is_counted_at_every_place(start_front: StartFront) -> None:
    with start_front() as front:
        front.generate("two words", max_new_tokens=3)
        metrics = scrape(front)
        assert metrics.value("tgi_request_count") == metrics.value("tgi_request_success") == 1
        assert metrics.value("tgi_request_input_length_sum") == 3
        assert metrics.value("tgi_request_max_new_tokens_sum") == 3
        assert metrics.value("tgi_request_generated_tokens_sum") == 3
        assert metrics.value("tgi_batch_next_size_sum") == 1
        for method, calls in (("prefill", 1), ("decode", 2)):
            assert metrics.value("tgi_batch_inference_count", method=method) == calls
            assert metrics.value("tgi_batch_inference_success", method=method) == calls
            assert metrics.value("tgi_batch_filter_duration_count", method=method) == calls
        assert metrics.value("tgi_request_skipped_tokens_count") == 3
        assert metrics.value("tgi_request_skipped_tokens", quantile="0.999") == 0
        assert metrics.value("tgi_queue_size") == metrics.value("tgi_batch_current_size") == 0


def test_what_is_refused_or_fails_is_counted_by_its_reason(start_front: StartFront) -> None:
    with start_front(max_concurrent_requests=1) as front:
        front.generate("a", temperature=0)
        stream(front, "a", best_of=2)
        stream(front, "a", decoder_input_details=True)
        front.generate("a", best_of=3)
        front.generate("a fail-prefill")
        stream(front, "a fail-decode")
        stream(front, "a lose")
        front.generate("a", best_of=2, do_sample=True)
        metrics = scrape(front)
        assert metrics.value("tgi_request_count") == 8
        assert metrics.value("tgi_request_success") == 0
        # More sequences than allowed are refused before anything is counted (the stock rule).
        assert metrics.value("tgi_request_failure", err="validation") == 3
        assert metrics.value("tgi_request_failure", err="generation") == 2
        assert metrics.value("tgi_request_failure", err="incomplete") == 1
        assert metrics.value("tgi_request_failure", err="overloaded") == 1
        assert metrics.value("tgi_batch_inference_failure", method="prefill") == 1
        assert metrics.value("tgi_batch_inference_failure", method="decode") == 1


def test_the_best_of_two_sequences_is_one_success(front: RunningFront) -> None:
    before = scrape(front)
    assert front.generate("a", best_of=2, do_sample=True, max_new_tokens=2).status_code == 200
    after = scrape(front)
    assert after.value("tgi_request_count") - before.value("tgi_request_count") == 1
    assert after.value("tgi_request_success") - before.value("tgi_request_success") == 1


def test_gauges_follow_queue_and_batch_and_clients_that_leave_are_dropped(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.02, "batch_size": 1}) as front,
        ThreadPoolExecutor(1) as clients,
    ):
        running = clients.submit(front.generate, "runs", max_new_tokens=30)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        with front.connect() as waiting:
            waiting.sendall(
                b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b'content-length: 14\r\n\r\n{"inputs":"a"}'
            )
            wait_until(lambda: scrape(front).value("tgi_queue_size") == 1)
            metrics = scrape(front)
            assert metrics.value("tgi_batch_current_size") == 1
            assert metrics.value("tgi_batch_current_max_tokens") == 64
        running.result()
        wait_until(lambda: scrape(front).value("tgi_batch_current_size") == 0)
        metrics = scrape(front)
        assert metrics.value("tgi_queue_size") == 0
        assert metrics.value("tgi_request_failure", err="dropped") == 1
        assert metrics.value("tgi_request_success") == 1


def test_buckets_are_the_stock_ones() -> None:
    metrics = Metrics(max_input_tokens=63, max_total_tokens=64)
    bounds: dict[str, list[float]] = {}
    for name in ("tgi_request_duration", "tgi_request_input_length", "tgi_request_generated_tokens"):
        metrics.observe(name, 1)
    metrics.observe("tgi_batch_next_size", 1)
    metrics.observe("tgi_batch_forward_duration", 1, method="decode")
    for family in text_string_to_metric_families(metrics.text().decode()):
        bounds[family.name] = [float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")]
    assert bounds["tgi_request_duration"] == bounds["tgi_batch_forward_duration"]
    assert len(bounds["tgi_request_duration"]) == 36
    assert bounds["tgi_request_duration"][0] == pytest.approx(0.00015)
    assert bounds["tgi_request_duration"][34] == pytest.approx(145.6, abs=0.1)
    assert bounds["tgi_request_input_length"][:100] == [63 / 100 * k for k in range(1, 101)]
    assert bounds["tgi_request_generated_tokens"][:100] == [64 / 100 * k for k in range(1, 101)]
    assert bounds["tgi_batch_next_size"][:1024] == list(range(1, 1025))


def test_quantiles_of_speculated_tokens() -> None:
    metrics = Metrics(63, 64)
    for tokens in [0] * 50 + [1] * 40 + [2] * 9 + [5]:
        metrics.skipped(tokens)
    (family,) = text_string_to_metric_families(metrics.text().decode())
    values = {sample.labels.get("quantile", sample.name): sample.value for sample in family.samples}
    assert values == {
        "0": 0, "0.5": 0, "0.9": 1, "0.95": 2, "0.99": 2, "0.999": 5, "1": 5,
        "tgi_request_skipped_tokens_sum": 63, "tgi_request_skipped_tokens_count": 100,
    }  # fmt: skip


def test_chats_and_completions_count_themselves_and_each_of_their_generations(
    start_front: StartFront,
) -> None:
    """The stock rule: 2 for a chat, 3 for one that is asked again without tools, 1 and n for n prompts."""
    with start_front(shard={"max_length": 256}) as front:
        counts = [0.0]
        front.chat("a eos-2")
        counts.append(scrape(front).value("tgi_request_count"))
        tool = {"type": "function", "function": {"name": "f"}}
        front.chat('write-{"function":{"_name":"no_tool"}} eos-2 ', tools=[tool])
        counts.append(scrape(front).value("tgi_request_count"))
        front.client.post("/v1/completions", json={"prompt": ["a eos-2", "b eos-2", "c eos-2"]})
        counts.append(scrape(front).value("tgi_request_count"))
        front.client.post("/v1/completions", json={"prompt": "a", "suffix": "b"})
        front.client.post("/chat_tokenize", json={"messages": [{"role": "user", "content": "a"}]})
        front.client.post("/tokenize", json={"inputs": "a"})
        counts.append(scrape(front).value("tgi_request_count"))
        assert [after - before for before, after in pairwise(counts)] == [2, 3, 4, 2]
        assert scrape(front).value("tgi_request_success") == 6
        assert scrape(front).value("tgi_request_failure", err="validation") == 1


def test_a_template_that_refuses_a_chat_is_counted(start_front: StartFront, model_directory: Path) -> None:
    config = model_directory / "refusing.json"
    config.write_text('{"chat_template": "{{ raise_exception(messages[0].content) }}"}')
    with start_front(tokenizer_config_path=str(config)) as front:
        response = front.chat("no")
        assert response.json() == {
            "error": "Template error: syntax error: no (in <string>:1)",
            "error_type": "template_error",
        }
        assert scrape(front).value("tgi_request_failure", err="template") == 1
