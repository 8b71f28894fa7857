"""Which installations `make install` makes, with a python that writes down what it is asked for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from image.repository import ROOT

CPU = "https://download.pytorch.org/whl/cpu"

# Fails, or not, as PROBE (the question whether an index answers) and FROM_INDEX (an installation from one) say.
PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
    -c*) exit "$PROBE" ;;
    *--index-url*) exit "$FROM_INDEX" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("locks", "proto"):
        shutil.copytree(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(project: Path, *words: str, probe: int = 1, from_index: int = 0) -> tuple[int, list[str]]:
    """Exit code, and what python was asked to install."""
    log = project / "log"
    environment = {
        "PATH": "/usr/bin:/bin",
        "LOG": str(log),
        "PROBE": str(probe),
        "FROM_INDEX": str(from_index),
    }
    command = ["make", "-C", str(project), "install", "UV=", *words]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    lines = log.read_text().splitlines() if log.exists() else []
    return done.returncode, [line for line in lines if not line.startswith("-c")]


TORCH = "-m pip install --quiet --no-deps --requirement locks/torch.txt --index-url"
PROJECT = "-m pip install --quiet --constraint locks/torch.txt --constraint locks/development.lock --editable .[dev]"


@pytest.mark.parametrize("probe", [0, 1])
def test_the_index_of_cpu_builds_is_used_where_it_answers(project: Path, probe: int) -> None:
    assert make(project, probe=probe) == (0, [f"{TORCH} {CPU}", PROJECT] if probe == 0 else [PROJECT])


def test_an_index_that_answers_and_has_nothing_is_done_without(project: Path) -> None:
    assert make(project, probe=0, from_index=1) == (0, [f"{TORCH} {CPU}", PROJECT])


def test_an_index_that_was_given_is_used(project: Path) -> None:
    given = "TORCH_INDEX=https://example.org/torch"
    assert make(project, given) == (0, [f"{TORCH} https://example.org/torch", PROJECT])


def test_an_index_that_was_given_and_fails_is_an_error(project: Path) -> None:
    code, installed = make(project, "TORCH_INDEX=https://example.org/torch", from_index=1)
    assert (code, installed) == (2, [f"{TORCH} https://example.org/torch"])
    assert not (project / ".venv" / ".installed").exists()


def test_an_empty_index_means_pypi(project: Path) -> None:
    assert make(project, "TORCH_INDEX=", probe=0) == (0, [PROJECT])
