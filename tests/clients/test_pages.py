"""Every example of docs/clients runs, in front of either router, and prints something."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clients.conftest import Service

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "clients"
ADDRESS = "http://127.0.0.1:8080"

# Packages that have requirements of their own, in an environment of their own.
APART = ROOT / ".venv-clients" / "bin" / "python"
PYTHONS = {"langchain": APART, "litellm": APART, "instructor": APART}

# What only the embedded router takes: docs/embedded-router.md.
EMBEDDED_ONLY = {"instructor"}


def examples() -> list[tuple[str, int, str, str]]:
    """Page, number, language and code of everything that can be run."""
    return [
        (page.stem, number, language, code)
        for page in sorted(PAGES.glob("*.md"))
        for number, (language, code) in enumerate(
            re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
        )
        if language in ("bash", "python") and not code.startswith("pip install ")
    ]


@pytest.mark.parametrize(
    ("page", "number", "language", "code"),
    [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in examples()],
)
def test_an_example_runs(service: Service, page: str, number: int, language: str, code: str) -> None:
    if service.is_stock and page in EMBEDDED_ONLY:
        pytest.skip("the stock router refuses such schemas: docs/embedded-router.md")
    python = PYTHONS.get(page, Path(sys.executable))
    if not python.exists():
        pytest.skip(f"{python} is not there: `make clients` makes it")
    assert ADDRESS in code
    command = ["bash", "-c"] if language == "bash" else [str(python), "-c"]
    # An environment without the paths of this one, in which a client would find other versions.
    variables = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ}
    outcome = subprocess.run(
        [*command, code.replace(ADDRESS, service.url)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip()
    if page == "instructor":
        assert json.loads(outcome.stdout)["city"] in ("Paris", "Rome")


def test_every_page_is_in_the_index() -> None:
    index = (PAGES / "README.md").read_text()
    assert {page.name for page in PAGES.glob("*.md")} - {"README.md"} == set(
        re.findall(r"\]\((\w+\.md)\)", index)
    )
