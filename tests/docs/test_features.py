"""docs/features.md: each row has a state, and names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
STATES = {"works", "refused", "not applicable"}


def rows() -> list[list[str]]:
    """The cells of each row: feature, state, how, tests."""
    lines = (TESTS.parent / "docs" / "features.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] != "feature" and set(row[0]) != {"-"}]


@cache
def names_of_tests() -> set[str]:
    """Every test function of this project."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_says_what_holds_and_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4
    feature, state, how, tests = row
    assert state in STATES
    assert how, "a row says how, with which message, or why not"
    assert "ignored" not in " ".join(row)
    named = re.findall("`(test_[a-z0-9_]+)`", tests)
    assert named, f"{feature} has no test"
    assert set(named) <= names_of_tests(), set(named) - names_of_tests()


def test_there_are_rows() -> None:
    assert len(rows()) > 50
