"""What operators watch: the stock router's metrics under its names (HTTP reference, section 5)."""

import math
import re
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

COUNTERS = {
    "tgi_request_count": "Requests; one to a chat or completion route counts again for each generation",
    "tgi_request_success": "Generations that were finished",
    "tgi_request_failure": "Generations that were not finished, by the reason",
    "tgi_batch_concat": "New batches that joined a running one, by the reason",
    "tgi_batch_inference_count": "Calls to the shard",
    "tgi_batch_inference_success": "Calls to the shard that were answered",
    "tgi_batch_inference_failure": "Calls to the shard that failed",
}
GAUGES = {
    "tgi_queue_size": "Requests that wait for a place on the shard",
    "tgi_batch_current_size": "Requests in the running batch",
    "tgi_batch_current_max_tokens": "Tokens that the running batch may come to hold",
}
HISTOGRAMS = {
    "tgi_request_duration": "Seconds from the arrival of a request to its last token",
    "tgi_request_validation_duration": "Seconds from the arrival of a request to the queue",
    "tgi_request_queue_duration": "Seconds that a request waited for a place on the shard",
    "tgi_request_inference_duration": "Seconds that a request spent on the shard",
    "tgi_request_mean_time_per_token_duration": "Seconds on the shard for each generated token",
    "tgi_request_generated_tokens": "Generated tokens of a request",
    "tgi_request_input_length": "Tokens of a prompt",
    "tgi_request_max_new_tokens": "Tokens that a request may generate",
    "tgi_batch_next_size": "Requests in a new batch",
    "tgi_batch_inference_duration": "Seconds of a call to the shard and of passing its tokens on",
    "tgi_batch_forward_duration": "Seconds that the model took, as the shard says",
    "tgi_batch_decode_duration": "Seconds that the choice and the text of tokens took, as the shard says",
    "tgi_batch_filter_duration": "Seconds of passing tokens on and of filtering the batch",
    "tgi_batch_concat_duration": "Seconds that joining two batches took, as the shard says",
}
SKIPPED_TOKENS = "tgi_request_skipped_tokens"

QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)

# As plain Prometheus text, the library extends the names of counters. The stock router does not.
COUNTER_SUFFIX = re.compile(rb"^((?:# (?:HELP|TYPE) )?tgi_\w+)_total(?=[ {])", re.MULTILINE)


class Metrics:
    """Counts in one registry. A series appears with its first use, and not before.

    Args:
        max_input_tokens, max_total_tokens: the scales of the histograms that count tokens.
    """

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        self._scales = {
            "tgi_request_input_length": hundredths(max_input_tokens),
            "tgi_request_generated_tokens": hundredths(max_total_tokens),
            "tgi_request_max_new_tokens": hundredths(max_total_tokens),
            "tgi_batch_next_size": [float(size) for size in range(1, 1025)],
        }
        # The library would add a series with the time of its creation to each one.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._skipped = SkippedTokens()
        self._registry.register(self._skipped)

    def count(self, name: str, **labels: str) -> None:
        """Adds 1 to a counter."""
        if name not in self._counters:
            self._counters[name] = Counter(name, COUNTERS[name], tuple(labels), registry=self._registry)
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc()

    def failed(self, reason: str) -> None:
        """One generation will not be finished: `overloaded`, `validation`, `template`, `incomplete`, ..."""
        self.count("tgi_request_failure", err=reason)

    def set(self, name: str, value: float) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, GAUGES[name], registry=self._registry)
        self._gauges[name].set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value, in seconds or tokens, to a histogram."""
        if name not in self._histograms:
            self._histograms[name] = Histogram(
                name,
                HISTOGRAMS[name],
                tuple(labels),
                buckets=self._scales.get(name) or durations(),
                registry=self._registry,
            )
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def finished(
        self, arrived: float, queued: float, started: float, ended: float, generated_tokens: int
    ) -> None:
        """A generation has its last token. Times are of `time.perf_counter`."""
        self.count("tgi_request_success")
        self.observe("tgi_request_duration", ended - arrived)
        self.observe("tgi_request_validation_duration", queued - arrived)
        self.observe("tgi_request_queue_duration", started - queued)
        self.observe("tgi_request_inference_duration", ended - started)
        self.observe("tgi_request_mean_time_per_token_duration", (ended - started) / generated_tokens)
        self.observe("tgi_request_generated_tokens", generated_tokens)

    def skipped(self, tokens: int) -> None:
        """A step yielded so many tokens more than one for a request, by speculation."""
        self._skipped.values[tokens] += 1

    def text(self) -> bytes:
        """Prometheus' text format."""
        return COUNTER_SUFFIX.sub(rb"\1", generate_latest(self._registry))


class SkippedTokens(Collector):
    """A summary with quantiles, which the library's own has not; over all values since the start."""

    def __init__(self) -> None:
        self.values: Tally[int] = Tally()

    def collect(self) -> Iterator[Metric]:
        if not self.values:
            return
        metric = Metric(SKIPPED_TOKENS, "Tokens of a step beyond the first one, by speculation", "summary")
        ordered = sorted(self.values)
        ranks = list(accumulate(self.values[value] for value in ordered))
        for quantile in QUANTILES:
            rank = max(1, math.ceil(quantile * ranks[-1]))
            metric.add_sample(
                SKIPPED_TOKENS, {"quantile": f"{quantile:g}"}, ordered[bisect_left(ranks, rank)]
            )
        metric.add_sample(f"{SKIPPED_TOKENS}_sum", {}, sum(n * times for n, times in self.values.items()))
        metric.add_sample(f"{SKIPPED_TOKENS}_count", {}, ranks[-1])
        yield metric


def durations() -> list[float]:
    """Upper bounds in seconds: 35 steps from 0.15 ms to about 146 s."""
    bounds = [0.0001 * 1.5]
    while len(bounds) < 35:
        bounds.append(bounds[-1] * 1.5)
    return bounds


def hundredths(limit: int) -> list[float]:
    return [limit / 100 * step for step in range(1, 101)]
