"""What the tests of the image read: files of the project, by name."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "deploy"
# Where pip put the programs of the development packages; PATH need not have it.
PROGRAMS = Path(sys.executable).parent


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def image_name() -> str:
    """The name under which `make tpu-tgi` tags the image, without a tag."""
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("IMAGE :="))
    return line.split(":=")[1].strip()


def documents(example: str) -> list[dict[str, Any]]:
    """The YAML documents of one of the examples."""
    return list(yaml.safe_load_all((EXAMPLES / example).read_text()))
