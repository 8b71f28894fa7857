"""What is refused, with the stock router's texts, and in its order."""

from typing import Any

import pytest

from front.conftest import StartFront
from front.running_front import RunningFront

REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.99999999999}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -3}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 63. Given: 0"),
    ({"truncate": 64}, "`truncate` must be strictly positive and less than 63. Given: 64"),
    (
        {"max_new_tokens": 63},
        "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 2 `inputs` tokens and 63 `max_new_tokens`",
    ),
    (
        {"max_new_tokens": 100_000},
        "`inputs` tokens + `max_new_tokens` must be <= 64. "
        "Given: 2 `inputs` tokens and 1024 `max_new_tokens`",
    ),
    ({"grammar": {"type": "json", "value": [1]}}, "grammar is not supported"),
    # The first of several errors, in the order of the stock router.
    ({"top_k": 0, "top_p": 2, "temperature": 0}, "`temperature` must be strictly positive"),
    ({"top_k": 0, "top_p": 2}, "`top_p` must be > 0.0 and < 1.0"),
    ({"max_new_tokens": 0, "top_k": 0}, "`top_k` must be strictly positive"),
    ({"truncate": 0, "top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    (
        {"grammar": {"type": "json", "value": 1}, "max_new_tokens": 64},
        "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 2 `inputs` tokens and 64 `max_new_tokens`",
    ),
]


@pytest.mark.parametrize(("parameters", "text"), REFUSALS)
def test_a_parameter_out_of_range_is_refused_with_the_stock_text(
    front: RunningFront, parameters: dict[str, Any], text: str
) -> None:
    response = front.generate("word", **parameters)
    assert response.status_code == 422
    assert response.json() == {"error": f"Input validation error: {text}", "error_type": "validation"}
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "parameters",
    [
        {"truncate": 63, "max_new_tokens": 1},
        {"top_n_tokens": 5},
        {"frequency_penalty": 2},
        {"best_of": 0},
        {"best_of": 1},
        {"seed": 0},
        {"max_new_tokens": 61},
        {"stop": ["a"] * 4},
    ],
)
def test_the_last_allowed_value_is_allowed(front: RunningFront, parameters: dict[str, Any]) -> None:
    assert front.generate("word eos-1", **parameters).status_code == 200


def test_an_empty_prompt_is_refused_before_its_truncation_is_looked_at(front: RunningFront) -> None:
    response = front.generate("", truncate=0)
    assert response.json()["error"] == "Input validation error: `inputs` cannot be empty"


def test_a_prompt_that_fills_the_slot_is_refused_by_its_length(front: RunningFront) -> None:
    words = " ".join(["word"] * 63)
    assert front.generate(words).json()["error"] == (
        "Input validation error: `inputs` must have less than 63 tokens. Given: 64"
    )
    assert front.generate(" ".join(["word"] * 62)).status_code == 200


def test_a_server_that_allows_one_sequence_refuses_best_of(start_front: StartFront) -> None:
    with start_front(max_best_of=1) as front:
        response = front.generate("a", best_of=2, do_sample=True)
        assert response.json()["error"] == (
            "Input validation error: `best_of` != 1 is not allowed for this endpoint"
        )


def test_a_refused_request_leaves_health_and_permits_alone(start_front: StartFront) -> None:
    with start_front(max_concurrent_requests=1) as front:
        for _ in range(3):
            assert front.generate("a", top_k=0).status_code == 422
        assert front.client.get("/health").status_code == 200
        assert front.generate("a", max_new_tokens=1).status_code == 200
        assert front.shard.count("Liveness") == 0
