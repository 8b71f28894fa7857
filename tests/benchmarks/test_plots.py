"""The plots of docs/performance.md."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plots
from benchmarks.engine_speed import BatchResult, Times


def test_a_plot_names_both_sides_and_is_the_same_for_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [
        BatchResult(size, greedy=Times([size * 10.0, size * 11.0], [size * 20.0, size * 22.0]))
        for size in (1, 4)
    ]
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"title": "a model, two cores", "results": list(map(asdict, results))}))
    drawn = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in drawn:
        monkeypatch.setattr("sys.argv", ["plots", str(measured), str(file)])
        plots.main()
    text = drawn[0].read_text()
    for word in ("a model, two cores", "this engine", "eager torch", "batch size", "tokens per second"):
        assert f">{word}<" in text
    assert text == drawn[1].read_text()


def test_a_plot_shows_the_medians_and_the_tokens_per_second_that_follow() -> None:
    result = asdict(BatchResult(4, greedy=Times([10.0, 20.0, 40.0], [50.0, 80.0, 90.0])))
    steps, tokens = plots.decode_plot({"title": "", "results": [result]}).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in steps.lines if line.get_marker() == "o"] == [
        [20.0],
        [80.0],
    ]
    assert [np.asarray(line.get_ydata()).tolist() for line in tokens.lines if line.get_marker() == "o"] == [
        [200.0],
        [50.0],
    ]
