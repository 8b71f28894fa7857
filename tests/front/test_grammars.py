"""Grammars of requests: what the shard is given, and what is refused."""

import json
from typing import Any

import jsonschema
import pytest

from front.conftest import StartFront
from front.enforced import allows
from front.loop_pause import longest_pause
from front.running_front import RunningFront
from text_generation_server.pb import messages_pb2 as pb

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


def given(front: RunningFront) -> pb.NextTokenChooserParameters:
    return front.shard.requests[-1].parameters


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
def test_the_shard_gets_the_schema_and_allows_what_fits_it(
    front: RunningFront, grammar: dict[str, Any]
) -> None:
    assert front.generate("a eos-1", grammar=grammar).status_code == 200
    assert given(front).grammar_type == pb.GRAMMAR_TYPE_JSON
    assert given(front).grammar == json.dumps(PERSON, separators=(",", ":"))
    for answer in ANSWERS:
        assert allows(given(front), answer) == accepts(PERSON, answer), answer


def test_a_regular_expression_is_passed_on_unchanged(front: RunningFront) -> None:
    front.generate("a eos-1", grammar={"type": "regex", "value": "(é+"})
    assert (given(front).grammar_type, given(front).grammar) == (pb.GRAMMAR_TYPE_REGEX, "(é+")


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
    assert allows(given(front), fits)
    assert not allows(given(front), does_not)


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


def deep(levels: int) -> dict[str, Any]:
    """Three chains of references, each level in the one before."""
    definitions: dict[str, Any] = {}
    for chain in range(3):
        inner: dict[str, Any] = {"$ref": f"#/$defs/c{chain + 1}"} if chain < 2 else {"type": "string"}
        for _ in range(60):
            inner = {"type": "object", "properties": {"a": inner}}
        definitions[f"c{chain}"] = inner
    return {"$defs": definitions, "properties": {"x": {"$ref": "#/$defs/c0"}}}


def branching(width: int, levels: int) -> dict[str, Any]:
    """As a regular expression, tens of gigabytes: each reference is followed for each of the properties."""
    definitions: dict[str, Any] = {"c4": {"type": "string"}}
    for level in range(3, -1, -1):
        inner: dict[str, Any] = {"$ref": f"#/$defs/c{level + 1}"}
        for _ in range(levels if level == 3 else 1):
            inner = {"type": "object", "properties": {f"p{index}": inner for index in range(width)}}
        definitions[f"c{level}"] = inner
    return {"$defs": definitions, "properties": {"x": {"$ref": "#/$defs/c0"}}}


@pytest.mark.parametrize("schema", [deep(60), branching(5, 4)])
def test_the_router_spends_nothing_on_a_schema_that_is_hard_to_compile(
    front: RunningFront, schema: dict[str, Any]
) -> None:
    with longest_pause(front.loop) as pause:
        assert front.generate("a eos-1", grammar={"type": "json", "value": schema}).status_code == 200
    assert json.loads(given(front).grammar) == schema
    assert pause.seconds < 0.05


def test_what_is_wrong_with_a_schema_is_quoted_in_part(front: RunningFront) -> None:
    schema = {"properties": {"a": {"type": "x" * 100_000}}}
    assert len(front.generate("a", grammar={"type": "json", "value": schema}).text) < 1000
