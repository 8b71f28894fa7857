"""What the documentation is held against."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "server" / "text_generation_server", ROOT / "launcher_patch" / "tpu_tgi")
VARIES = "…"


def page(name: str) -> str:
    return (ROOT / name).read_text()


def table_rows(text: str) -> list[tuple[str, ...]]:
    """The cells of every row of every table, without headings."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    rows = [tuple(cell.strip() for cell in line.split(" | ")) for line in lines]
    return [row for row in rows if not re.fullmatch(r"[-| ]+", "".join(row))]


def texts_in_source() -> Iterator[str]:
    """Every string of the two packages, `…` for what is inserted; docstrings too, which have no messages."""
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value.replace("{}", VARIES).replace("{:.1f}", VARIES)
