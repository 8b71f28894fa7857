"""The OpenAPI document, held against the running router by schemathesis, which knows neither."""

from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from front.conftest import StartFront
from front.running_front import RunningFront
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.routes import OPERATIONS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


# Without a body there is nothing that could be invalid.
CASES = [
    pytest.param(operation, mode, id=f"{operation.method} {operation.path}, {mode.value}")
    for operation in OPERATIONS
    for mode in (GenerationMode if operation.body else [GenerationMode.POSITIVE])
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_a_route_answers_as_it_is_described_whatever_it_is_sent(
    front: RunningFront, operation: Operation, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{front.port}/api-doc/openapi.json")
    cases = schema[operation.path][operation.method].as_strategy(generation_mode=mode)

    @given(case=cases)
    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    def is_answered(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    is_answered()


def test_the_document_is_valid_openapi_and_has_every_route(front: RunningFront) -> None:
    document = front.client.get("/api-doc/openapi.json").json()
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == {
        (operation.method, operation.path) for operation in OPERATIONS
    }
    for name, described in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(described)
        assert "$defs" not in described, name


def test_docs_leads_to_its_page(front: RunningFront) -> None:
    redirect = front.client.get("/docs")
    assert (redirect.status_code, redirect.headers["location"]) == (303, "/docs/")
    assert front.client.get("/docs/").headers["content-type"] == "text/html; charset=utf-8"


def test_a_guarded_server_says_so(start_front: StartFront) -> None:
    with start_front(api_key="secret") as front:
        document = front.client.get("/api-doc/openapi.json").json()
        assert document["paths"]["/generate"]["post"]["security"] == [{"api_key": []}]
        assert "401" in document["paths"]["/generate"]["post"]["responses"]
        assert "security" not in document["paths"]["/info"]["get"]
        assert document["components"]["securitySchemes"]["api_key"] == {"type": "http", "scheme": "bearer"}
