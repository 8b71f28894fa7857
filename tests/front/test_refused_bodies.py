"""Bodies that are refused before their content is looked at: plain text, as from the stock router."""

import json

import pytest

from front.conftest import StartFront
from front.running_front import RunningFront

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""])
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_another_content_type_is_415(front: RunningFront, content_type: str, path: str) -> None:
    response = front.client.post(path, content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 415
    assert response.text == "Expected request with `Content-Type: application/json`"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/vnd.some+json"])
def test_every_json_type_is_accepted(front: RunningFront, content_type: str) -> None:
    body = json.dumps({"inputs": "a", "parameters": {"max_new_tokens": 1}})
    response = front.client.post("/generate", content=body, headers={"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": "a",}',
        b'{"inputs": "a"} more',
        b'{"inputs": "a", "parameters": {"temperature": NaN}}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "\xff"}',
    ],
)
def test_what_is_not_json_is_400(front: RunningFront, body: bytes) -> None:
    response = front.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.text.startswith("Failed to parse the request body as JSON: ")
    assert "line 1 column" in response.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "inputs"),
        ({"inputs": 1}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": "a", "parameters": None}, "parameters"),
        ({"inputs": "a", "parameters": {"max_new_tokens": "20"}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 20.0}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"max_new_tokens": -1}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 2**32}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"max_new_tokens": True}}, "parameters.max_new_tokens"),
        ({"inputs": "a", "parameters": {"seed": 2**64}}, "parameters.seed"),
        ({"inputs": "a", "parameters": {"seed": -1}}, "parameters.seed"),
        ({"inputs": "a", "parameters": {"top_k": 2**31}}, "parameters.top_k"),
        ({"inputs": "a", "parameters": {"do_sample": None}}, "parameters.do_sample"),
        ({"inputs": "a", "parameters": {"do_sample": 1}}, "parameters.do_sample"),
        ({"inputs": "a", "parameters": {"details": "true"}}, "parameters.details"),
        ({"inputs": "a", "parameters": {"watermark": None}}, "parameters.watermark"),
        ({"inputs": "a", "parameters": {"decoder_input_details": None}}, "parameters.decoder_input_details"),
        ({"inputs": "a", "parameters": {"stop": None}}, "parameters.stop"),
        ({"inputs": "a", "parameters": {"stop": "x"}}, "parameters.stop"),
        ({"inputs": "a", "parameters": {"stop": [1]}}, "parameters.stop.0"),
        ({"inputs": "a", "parameters": {"temperature": "0.5"}}, "parameters.temperature"),
    ],
)
def test_a_wrong_type_is_422_and_names_the_field(front: RunningFront, body: object, field: str) -> None:
    response = front.client.post("/generate", json=body)
    assert response.status_code == 422
    assert response.text.startswith(f"Failed to deserialize the JSON body into the target type: {field}: ")


def test_a_number_beyond_every_float_is_400_and_names_the_field(front: RunningFront) -> None:
    body = b'{"inputs": "a", "parameters": {"temperature": 1e400}}'
    response = front.client.post("/generate", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.text.startswith("Failed to parse the request body as JSON: parameters.temperature: ")


def test_null_is_the_same_as_absence_where_the_stock_router_accepts_it(front: RunningFront) -> None:
    nullable = [
        "best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p",
        "max_new_tokens", "return_full_text", "truncate", "seed", "top_n_tokens", "grammar", "adapter_id",
    ]  # fmt: skip
    assert front.generate("a eos-1", **dict.fromkeys(nullable)).status_code == 200


def test_unknown_fields_are_ignored(front: RunningFront) -> None:
    body = {"inputs": "a eos-1", "stream": True, "some": 1, "parameters": {"other": [], "top_k": 1}}
    assert front.client.post("/generate", json=body).json() == {"generated_text": ""}


def test_a_body_above_the_payload_limit_is_413_and_the_connection_survives_the_news(
    start_front: StartFront,
) -> None:
    with start_front(payload_limit=1000) as front:
        fits = json.dumps({"inputs": "a eos-1", "x": ""})
        fits = json.dumps({"inputs": "a eos-1", "x": "x" * (1000 - len(fits))})
        assert len(fits) == 1000
        assert front.client.post("/generate", content=fits, headers=JSON).status_code == 200
        for body in (fits + " ", "x" * 5_000):
            response = front.client.post("/generate", content=body, headers=JSON)
            assert response.status_code == 413
            assert response.text == "Failed to buffer the request body: length limit exceeded"


def test_a_wrong_method_is_an_empty_405_and_an_unknown_path_an_empty_404(front: RunningFront) -> None:
    for response, status in (
        (front.client.get("/generate"), 405),
        (front.client.post("/health"), 405),
        (front.client.get("/nothing"), 404),
        (front.client.post("/generate/", json={}), 404),
    ):
        assert (response.status_code, response.content) == (status, b"")
