"""Grammars of requests: what the shard is given, and what is refused."""

import json
import re
from typing import Any

import jsonschema
import pytest

from front.conftest import StartFront
from front.running_front import RunningFront
from text_generation_server.pb import messages_pb2 as pb
from tpu_tgi.router.errors import ValidationError
from tpu_tgi.router.grammar import JsonGrammar, to_regex

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
}

ANSWERS = [
    '{"name": "Ann", "age": 3}',
    '{"name":"Ann","age":3,"tags":["a","b"]}',
    '{"name": "Ann"}',
    '{"name": "Annabel", "age": 3}',
    '{"name": "Ann", "age": 3.5}',
    '{"name": "Ann", "age": 3, "tags": ["c"]}',
    '{"name": "Ann", "age": 3, "tags": ["a", "a", "a"]}',
    "[]",
]


def given(front: RunningFront) -> str:
    parameters = front.shard.requests[-1].parameters
    assert parameters.grammar_type == pb.GRAMMAR_TYPE_REGEX
    return parameters.grammar


def accepts(schema: dict[str, Any], answer: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(answer)))


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": PERSON},
        {"type": "json_object", "value": PERSON},
        {"type": "json", "value": json.dumps(PERSON)},
        {"type": "json_schema", "value": {"name": "person", "schema": PERSON, "strict": True}},
    ],
)
def test_the_shard_gets_a_regular_expression_that_accepts_what_fits_the_schema(
    front: RunningFront, grammar: dict[str, Any]
) -> None:
    assert front.generate("a eos-1", grammar=grammar).status_code == 200
    regex = given(front)
    for answer in ANSWERS:
        assert bool(re.fullmatch(regex, answer)) == accepts(PERSON, answer), answer
    assert regex.index("name") < regex.index("age")


def test_a_regular_expression_is_passed_on_unchanged(front: RunningFront) -> None:
    front.generate("a eos-1", grammar={"type": "regex", "value": "(é+"})
    assert given(front) == "(é+"


def test_without_a_grammar_the_shard_is_told_so(front: RunningFront) -> None:
    front.generate("a eos-1", grammar=None)
    parameters = front.shard.requests[-1].parameters
    assert (parameters.grammar_type, parameters.grammar) == (pb.GRAMMAR_TYPE_NONE, "")


@pytest.mark.parametrize(
    ("response_format", "fits", "does_not"),
    [
        ({"type": "json_object"}, '{"a": [1, {"b": null}]}', "[1]"),
        ({"type": "json_object", "value": PERSON}, ANSWERS[0], ANSWERS[2]),
        ({"type": "json", "value": PERSON}, ANSWERS[0], ANSWERS[2]),
        ({"type": "json_schema", "value": {"schema": PERSON}}, ANSWERS[0], ANSWERS[2]),
        (
            {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}},
            ANSWERS[0],
            ANSWERS[2],
        ),
        ({"type": "regex", "value": "[0-9]+"}, "12", "a"),
    ],
)
def test_response_formats_of_tgi_and_of_openai_are_grammars(
    front: RunningFront, response_format: object, fits: str, does_not: str
) -> None:
    assert front.chat("a eos-1", response_format=response_format).status_code == 200
    assert re.fullmatch(given(front), fits)
    assert not re.fullmatch(given(front), does_not)


def test_the_format_text_is_no_grammar(front: RunningFront) -> None:
    front.chat("a eos-1", response_format={"type": "text"})
    assert front.shard.requests[-1].parameters.grammar_type == pb.GRAMMAR_TYPE_NONE


@pytest.mark.parametrize(
    ("grammar", "error"),
    [
        ({"type": "json", "value": [1]}, "grammar is not supported"),
        ({"type": "json", "value": None}, "grammar is not supported"),
        ({"type": "json", "value": "{"}, "grammar is not valid: EOF while parsing an object"),
        ({"type": "json", "value": {"properties": 3}}, 'grammar is not valid: 3 is not of type "object"'),
        (
            {"type": "json", "value": {"type": "object"}},
            "grammar is not valid: Grammar must have a 'properties' field",
        ),
        (
            {"type": "json_schema", "value": {"schema": True}},
            "grammar is not valid: Grammar must have a 'properties' field",
        ),
        (
            {"type": "json", "value": {"properties": {"a": {"$ref": "#/nothing"}}}},
            "cannot compile regex from schema: Invalid reference path: nothing",
        ),
        (
            {
                "type": "json",
                "value": {"$schema": "http://127.0.0.1:9/x", "properties": {"a": {"type": "x"}}},
            },
            'grammar is not valid: "x" is not valid',
        ),
    ],
)
def test_a_bad_grammar_is_refused_with_the_stock_text(
    front: RunningFront, grammar: dict[str, Any], error: str
) -> None:
    response = front.generate("a", grammar=grammar)
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"Input validation error: {error}")
    assert response.json()["error_type"] == "validation"


@pytest.mark.parametrize(
    "grammar",
    [{"type": "xml", "value": ""}, {"type": "json"}, {"value": {}}, "a", {"type": "regex", "value": 1}],
)
def test_what_is_no_grammar_is_refused_in_plain_text(front: RunningFront, grammar: object) -> None:
    response = front.generate("a", grammar=grammar)
    assert response.status_code == 422
    assert "target type: parameters.grammar" in response.text


def test_a_server_may_refuse_all_grammars(start_front: StartFront) -> None:
    with start_front(disable_grammar_support=True) as front:
        response = front.generate("a", grammar={"type": "regex", "value": "a"})
        assert response.json()["error"] == "Input validation error: grammar is not supported"


def nested(levels: int) -> dict[str, Any]:
    """None of the properties is required, so each may come first, on every level."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "object"}}}
    return schema


def wide(levels: int, width: int) -> dict[str, Any]:
    """Every definition refers to the one before, many times."""
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, levels + 1):
        reference = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {
            "type": "object",
            "properties": {f"p{i}": reference for i in range(width)},
            "required": ["p0"],
        }
    return {"$defs": definitions, "properties": {"x": {"$ref": f"#/$defs/d{levels}"}}, "required": ["x"]}


@pytest.mark.parametrize("schema", [nested(40), wide(3, 500), wide(20, 50)])
def test_a_schema_whose_regular_expression_would_fill_the_memory_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="its regular expression would have"):
        to_regex(JsonGrammar(type="json", value=schema))


@pytest.mark.parametrize(
    "schema",
    [
        nested(8),
        wide(2, 50),
        {"properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"properties": {f"p{i}": {"type": "string"} for i in range(200)}},
    ],
)
def test_schemas_of_a_reasonable_size_are_compiled(schema: dict[str, Any]) -> None:
    assert len(to_regex(JsonGrammar(type="json", value=schema))) < 20_000_000
