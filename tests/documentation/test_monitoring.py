"""docs/monitoring.md has every metric, and what Prometheus and Grafana are given asks for no other."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from documentation.repository import ROOT, page, table_rows
from text_generation_server.metrics import ShardMetrics
from text_generation_server.shard import Shard
from tpu_tgi.router.metrics import COUNTERS, GAUGES, HISTOGRAMS, SKIPPED_TOKENS

MONITORING = ROOT / "docs" / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())

Row = tuple[str, str, str]


def router_metrics() -> list[Row]:
    kinds = {"counter": COUNTERS, "gauge": GAUGES, "histogram": HISTOGRAMS}
    return [(name, kind, text) for kind, family in kinds.items() for name, text in family.items()]


def shard_metrics() -> list[Row]:
    """As a scrape has them, of a shard that is idle."""
    numbers = (
        "compilations_after_warm_up", "programs_compiled", "programs_from_cache", "idle_seconds", "call_seconds",
        "memory_used", "memory_limit",
    )  # fmt: skip
    statistics = SimpleNamespace(**dict.fromkeys(numbers, 0))
    requests = type("Requests", (), {"__getitem__": lambda *_: 0})()
    shard = SimpleNamespace(
        engine=SimpleNamespace(statistics=lambda: statistics),
        generator=SimpleNamespace(
            count_requests=lambda: requests,
            steps_in_flight=0,
            prefixes=SimpleNamespace(hits=0, hit_tokens=0),
            speculation=SimpleNamespace(drafted=0, accepted=0),
            steps_ahead=SimpleNamespace(taken=0),
        ),
        info=SimpleNamespace(batch_size=4),
        refusals=0,
    )
    families = list(ShardMetrics(cast(Shard, shard)).collect())
    return [
        (f"{one.name}{'_total' * (one.type == 'counter')}", one.type, one.documentation) for one in families
    ]


def test_the_page_has_every_metric_with_its_meaning() -> None:
    rows = [
        row for row in table_rows(page("docs/monitoring.md")) if len(row) == 3 and row[0].startswith("`t")
    ]
    documented = [(name.strip("`"), kind, text) for name, kind, text in rows]
    skipped = (SKIPPED_TOKENS, "summary", "Tokens of a step beyond the first one, by speculation")
    assert documented == [*router_metrics(), skipped, *shard_metrics()]


def known_series() -> set[str]:
    names = {name for name, kind, _ in router_metrics() + shard_metrics() if kind != "histogram"}
    return names | {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")} | {"up"}


def expressions() -> list[str]:
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [found["query"] for found in DASHBOARD["templating"]["list"] if found["type"] == "query"]
    return [rule["expr"] for rule in rules] + targets + variables


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_panels_ask_for_metrics_that_there_are(expression: str) -> None:
    asked = set(re.findall(r"\b(?:tgi|tpu_tgi)_\w+|\bup\b", expression))
    assert asked
    assert asked <= known_series()


def test_panels_stand_beside_each_other_and_explain_themselves() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def promtool(*words: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not in PATH: `apt-get install prometheus` (`.ci/run` does so for root)")
    outcome = subprocess.run([program, *words], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def test_prometheus_takes_the_configuration_and_alerts_fire_when_they_should() -> None:
    assert "valid prometheus config" in promtool("check", "config", "prometheus.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")


def test_prometheus_understands_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = []
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m")
            rules.append({"record": f"panel_{panel['id']}_{target['refId']}", "expr": query})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))
