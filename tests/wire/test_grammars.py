"""Grammars as routers send them: schemas from old ones, regular expressions from new ones."""

import json
import time
from typing import Any

import grpc
import pytest

from text_generation_server.pb import messages_pb2 as pb

from .router_messages import prefill, request

SCHEMA = json.dumps(
    {"type": "object", "properties": {"n": {"enum": [7, 8]}}, "required": ["n"]}
    | {"additionalProperties": False}
)


def answer(stub: Any, grammar: str, kind: int) -> pb.Generation:
    """The last generation of a request with this grammar; waits for it to be compiled."""
    parameters = {"grammar": grammar, "grammar_type": kind}
    message = prefill(0, request(0, "a", max_new_tokens=40, parameters=parameters))
    reply = stub.Prefill(message)
    generations: list[pb.Generation] = list(reply.generations)
    deadline = time.monotonic() + 30
    while reply.HasField("batch"):
        assert time.monotonic() < deadline
        reply = stub.Decode(pb.DecodeRequest(batches=[reply.batch]))
        generations += reply.generations
    return generations[-1]


def test_a_regular_expression_is_kept_to_and_the_output_ends_with_it(stub: Any) -> None:
    text = answer(stub, "[x-z]{2}-[0-9]", pb.GRAMMAR_TYPE_REGEX).generated_text
    assert text.text == "xy-0"
    assert text.finish_reason == pb.FINISH_REASON_EOS_TOKEN
    assert text.generated_tokens == 5


def test_a_schema_is_kept_to(stub: Any) -> None:
    text = answer(stub, SCHEMA, pb.GRAMMAR_TYPE_JSON).generated_text
    assert json.loads(text.text)["n"] in (7, 8)
    assert text.finish_reason == pb.FINISH_REASON_EOS_TOKEN


def test_a_schema_with_a_keyword_that_cannot_be_enforced_is_refused_by_its_name(stub: Any) -> None:
    schema = json.dumps({"type": "array", "uniqueItems": True})
    with pytest.raises(grpc.RpcError) as refusal:
        answer(stub, schema, pb.GRAMMAR_TYPE_JSON)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == '`grammar` cannot be compiled: Unimplemented keys: ["uniqueItems"]'


def test_a_grammar_without_a_type_is_none(stub: Any) -> None:
    assert answer(stub, "[0-9]+", pb.GRAMMAR_TYPE_NONE).generated_text.text.startswith("bcd")
