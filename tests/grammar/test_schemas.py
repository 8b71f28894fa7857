"""Outputs under a JSON schema validate with `jsonschema`, and what cannot be enforced is refused by its name."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from outlines_core.json_schema import build_regex_from_schema

from grammar.schemas import FUNCTIONS, SCHEMAS
from grammar.walks import Walker
from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar import compilation
from text_generation_server.grammar.definition import Grammar, GrammarKind

WALKS = 3


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """These schemas are known to compile fast, and a process for each would take longer than all of the rest."""
    monkeypatch.setattr(compilation, "try_in_a_process", lambda source: None)


def json_schema(schema: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def validate(text: str, schema: Any) -> None:
    formats = Draft202012Validator.FORMAT_CHECKER
    Draft202012Validator(schema, format_checker=formats).validate(json.loads(text))


def test_there_are_a_hundred_schemas() -> None:
    assert len({json.dumps(schema) for schema in SCHEMAS}) >= 100


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_every_output_validates(walker: Walker, schema: Any) -> None:
    for seed in range(WALKS):
        validate(walker.walk(json_schema(schema), seed), schema)


def test_outputs_of_other_tokenizers_validate(any_walker: Walker) -> None:
    for schema in SCHEMAS[::7]:
        validate(any_walker.walk(json_schema(schema), 0), schema)


@pytest.mark.parametrize(
    "schema",
    [
        *FUNCTIONS,
        {
            "$functions": {
                "plan": {
                    "description": "Plans a trip",
                    "properties": {
                        "_name": {"type": "string", "const": "plan"},
                        "days": {"type": "integer"},
                        "budget": {"type": "number"},
                        "start": {"type": "string", "format": "date"},
                        "at": {"type": "string", "format": "date-time"},
                        "id": {"type": "string", "format": "uuid"},
                        "cities": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                        "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
                        "level": {"enum": ["low", 'very "high"', 3]},
                    },
                    "required": ["_name", "days", "budget", "start", "at", "id", "cities", "level"],
                    "additionalProperties": False,
                },
                "no_tool": {
                    "description": "Open ended response with no specific tool selected",
                    "properties": {
                        "_name": {"type": "string", "const": "no_tool"},
                        "content": {"type": "string"},
                    },
                    "required": ["_name", "content"],
                    "additionalProperties": False,
                },
            },
            "properties": {
                "function": {"anyOf": [{"$ref": "#/$functions/plan"}, {"$ref": "#/$functions/no_tool"}]}
            },
        },
    ],
    ids=["one argument", "three arguments", "no_tool", "four arguments", "all types"],
)
def test_what_routers_make_of_tools_is_kept_to(walker: Walker, schema: Any) -> None:
    regex = build_regex_from_schema(json.dumps(schema))
    for seed in range(WALKS):
        validate(walker.walk(Grammar(GrammarKind.REGEX, regex), seed), schema)


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("uniqueItems", {"type": "array", "uniqueItems": True}),
        ("contains", {"type": "array", "contains": {"type": "integer"}}),
        ("not", {"not": {"type": "string"}}),
        ("if", {"if": {"type": "string"}, "then": {"maxLength": 3}}),
        ("propertyNames", {"type": "object", "propertyNames": {"pattern": "^a"}}),
        ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
        ("dependentSchemas", {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}),
        ("dependencies", {"type": "object", "dependencies": {"a": ["b"]}}),
        ("unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}),
        ("unevaluatedItems", {"type": "array", "unevaluatedItems": False}),
        ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        ("format", {"type": "string", "format": "no such format"}),
        ("look-ahead", {"type": "string", "pattern": "^(?=a)"}),
        ("foo", {"type": "foo"}),
        ("not present", {"$ref": "http://127.0.0.1:1/schema.json"}),
        ("minLength (3) is greater than maxLength (2)", {"type": "string", "minLength": 3, "maxLength": 2}),
        ("if", {"x-guidance": {"lenient": True}, "if": {}}),
        ("if", {"properties": {"a": {"x-guidance": {"lenient": True}, "if": {}}}}),
        ("must be a JSON object", [{"type": "string"}]),
        ("must be a JSON object", True),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_name(walker: Walker, keyword: str, schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match="`grammar` cannot be compiled") as refusal:
        walker.matcher(json_schema(schema))
    assert keyword in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", ["{", "", '{"a": ' * 100_000, "[" * 100_000, '{"type": "string"}}'])
def test_a_schema_that_is_not_json_is_refused(walker: Walker, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="the schema is not JSON"):
        walker.matcher(Grammar(GrammarKind.JSON_SCHEMA, text))


def test_whitespace_cannot_go_on_for_ever(walker: Walker) -> None:
    grammar = json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert walker.accepts(grammar, '{ "a" : 1 }')
    assert not walker.accepts(grammar, '{  "a": 1}')
    assert not walker.accepts(grammar, '{\n"a": 1}')
