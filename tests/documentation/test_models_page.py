"""docs/models.md has the table of the source, and each line of it names a test that exists."""

import ast

from documentation.models_page import PAGE, page_with, table
from documentation.repository import ROOT
from text_generation_server.model.architectures import ARCHITECTURES


def test_the_page_of_models_has_the_table_of_the_source() -> None:
    assert PAGE.read_text() == page_with(table())


def test_each_architecture_names_a_test_that_exists() -> None:
    names = {
        node.name
        for path in (ROOT / "tests" / "engine").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {architecture.test for architecture in ARCHITECTURES} <= names


def test_the_table_of_models_is_sorted_and_has_each_once() -> None:
    types = [architecture.model_type for architecture in ARCHITECTURES]
    assert types == sorted(set(types))
