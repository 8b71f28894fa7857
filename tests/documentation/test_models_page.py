"""docs/models.md has the table of the source, and each line of it names a test that exists."""

import ast

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from documentation.models_page import PAGE, made_page
from documentation.repository import ROOT
from text_generation_server.model.architectures import ARCHITECTURES, REFUSALS


def test_the_page_of_models_has_the_table_of_the_source() -> None:
    assert PAGE.read_text() == made_page()


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


def test_a_model_type_is_served_or_refused_with_a_reason_and_not_both() -> None:
    served = {architecture.model_type for architecture in ARCHITECTURES}
    refused = [model_type for each in REFUSALS for model_type in each.model_types]
    assert len(refused) == len(set(refused))
    assert served.isdisjoint(refused)
    # A type that transformers does not know by this name would never be met.
    assert set(refused) <= set(CONFIG_MAPPING_NAMES)
