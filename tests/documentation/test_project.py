"""What GitHub and readers get: workflows, forms, and the documentation as a site."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from documentation.repository import ROOT

PROGRAMS = Path(sys.executable).parent
GITHUB = ROOT / ".github"


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", "workflows/*.yaml"),
        ("vendor.github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_github_understands_its_files(schema: str, pattern: str) -> None:
    files = [str(file) for file in GITHUB.glob(pattern)]
    assert files
    command = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", schema, *files]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_what_is_tested_there_is_what_is_tested_here() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "ci.yaml").read_text())["jobs"]
    assert jobs["test"]["steps"][-1] == {"run": ".ci/run"}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [str(PROGRAMS / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(tmp_path).with_suffix("") for page in tmp_path.rglob("*.html")}
    readme = {page.with_name("index") if page.name == "README" else page for page in pages}
    assert readme <= built
    assert "github.com/huggingface/tpu-tgi/blob/main/SECURITY.md" in (tmp_path / "index.html").read_text()
