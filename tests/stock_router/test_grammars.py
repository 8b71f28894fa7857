"""Guided /generate through the stock routers, which send regular expressions; chats are asked in tests/clients."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from stock_router.http_client import Body
from stock_router.oracle import Oracle
from stock_router.questions import PROMPTS
from stock_router.stock_service import StockService

VERDICT: Body = {
    "type": "object",
    "properties": {
        "answer": {"enum": ["yes", "no", "maybe"]},
        "certainty": {"enum": [0, 1, 2]},
        "sources": {"type": "array", "items": {"enum": ["book", "web"]}, "maxItems": 2},
    },
    "required": ["answer", "certainty", "sources"],
}


def test_an_expression_is_kept_to_beside_an_answer_without_one(service: StockService, oracle: Oracle) -> None:
    expression = "[0-9]{3}-[0-9]{4}"
    held, free = service.http.generate_all(
        [
            ("My number is ", {"max_new_tokens": 30, "grammar": {"type": "regex", "value": expression}}),
            (PROMPTS[0], {"max_new_tokens": 16}),
        ]
    )
    assert re.fullmatch(expression, held["generated_text"])
    assert free["generated_text"] == oracle.greedy(PROMPTS[0]).text


@pytest.mark.parametrize("drawn", [{}, {"do_sample": True, "seed": 5}], ids=["greedy", "drawn"])
def test_an_answer_under_a_schema_validates(service: StockService, drawn: Body) -> None:
    grammar = {"type": "json", "value": VERDICT}
    body = service.http.generate("Is it so?", max_new_tokens=80, grammar=grammar, details=True, **drawn)
    Draft202012Validator(VERDICT).validate(json.loads(body["generated_text"]))
    assert body["details"]["finish_reason"] == "eos_token"
