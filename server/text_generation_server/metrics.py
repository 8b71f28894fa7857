"""Prometheus metrics of the shard (`--metrics-port`): read from its parts whenever somebody asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from text_generation_server.batching.request_state import State
from text_generation_server.errors import InvalidSettingError
from text_generation_server.shard import Shard


class ShardMetrics(Collector):
    """Asks nothing of the device, and takes no lock, so that a scrape neither waits nor delays."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def collect(self) -> Iterator[Metric]:
        engine = self._shard.engine.statistics()
        requests = self._shard.generator.count_requests()
        counters = {
            "compilations_after_warm_up": ("Anything but 0 is a defect", engine.compilations_after_warm_up),
            "programs_compiled": ("Programs that were compiled", engine.programs_compiled),
            "programs_from_cache": ("Programs that came from the compile cache", engine.programs_from_cache),
            "device_idle_seconds": ("Time without work although a slot was live", engine.idle_seconds),
            "prefix_hits": ("Prompts whose beginning was in a slot", self._shard.generator.prefixes.hits),
            "prefix_hit_tokens": ("Tokens of those beginnings", self._shard.generator.prefixes.hit_tokens),
            "drafted_tokens": ("Drafts that steps verified", self._shard.generator.speculation.drafted),
            "accepted_tokens": (
                "Drafts that were chosen, each a token without a step of its own",
                self._shard.generator.speculation.accepted,
            ),
            "steps_without_host": (
                "Decode steps of programs that took several",
                self._shard.generator.steps_ahead.taken,
            ),
            "refusals": ("Requests and calls that were refused", self._shard.refusals),
        }
        gauges: dict[str, tuple[str, float | None]] = {
            "slots": ("Slots of the static batch", self._shard.info.batch_size),
            "slots_in_use": (
                "Slots that a request holds",
                requests[State.PREFILLING] + requests[State.RUNNING],
            ),
            "requests_prefilling": ("Requests whose prompt is not complete", requests[State.PREFILLING]),
            "requests_waiting": ("Requests that wait for a slot", requests[State.WAITING]),
            "requests_parked": ("Requests whose grammar is being compiled", requests[State.PARKED]),
            "steps_in_flight": ("Decode steps started and not read", self._shard.generator.steps_in_flight),
            "device_call_age_seconds": ("Age of the call in progress", engine.call_seconds),
            "device_memory_used_bytes": ("Memory of the device in use", engine.memory_used),
            "device_memory_limit_bytes": ("Memory of the device", engine.memory_limit),
        }
        for name, (help_text, count) in counters.items():
            yield CounterMetricFamily(f"tpu_tgi_{name}", help_text, value=count)
        for name, (help_text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(f"tpu_tgi_{name}", help_text, value=value)


def serve_metrics(shard: Shard, port: int) -> None:
    """Answers scrapes at /metrics from a thread of its own. InvalidSettingError if the port cannot be used."""
    registry = CollectorRegistry()
    registry.register(ShardMetrics(shard))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise InvalidSettingError(
            f"--metrics-port {port} cannot be used: {error}. Use another port, or leave it out"
        ) from error
