"""Speculation behind the stock routers: the same answers, several tokens to a step, and slots filled to their end."""

import string
from pathlib import Path

import pytest

from stock_router.stock_service import StockService, launched
from wire.shard_process import COMMAND as SPELLING_SERVER
from wire.shard_process import spelling_checkpoint

MAX_LENGTH = 128
PROMPT = "FOREVER"
NEW = MAX_LENGTH - len(PROMPT) - 1
"""Beside the prompt and its BOS."""

ANSWER = (string.ascii_lowercase * 5)[:NEW]


@pytest.fixture(params=[0, 2, 4], ids=lambda drafts: f"{drafts}-drafts")
def drafts(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def test_answers_fill_a_slot_to_its_last_token_with_and_without_drafts(
    router: str, drafts: int, tmp_path: Path
) -> None:
    flags = [
        *("--max-batch-size", "1", "--max-total-tokens", str(MAX_LENGTH)),
        *("--max-input-tokens", str(MAX_LENGTH - 1), "--max-batch-prefill-tokens", str(MAX_LENGTH)),
        *("--waiting-served-ratio", "0", "--speculate", str(drafts)),
    ]
    model = spelling_checkpoint(tmp_path / "model")
    with launched(tmp_path, model, *flags, router=router, server=SPELLING_SERVER) as service:
        service.wait_until_ready()
        check(service)
        skipped = service.http.metric("tgi_request_skipped_tokens_sum")
        assert (skipped > 0) == (drafts > 0)
        service.stop()


def check(service: StockService) -> None:
    body = service.http.generate(PROMPT, max_new_tokens=NEW, details=True)
    assert body["generated_text"] == ANSWER
    assert body["details"]["generated_tokens"] == len(body["details"]["tokens"]) == NEW
    events = service.http.stream(PROMPT, max_new_tokens=NEW)
    assert "".join(event["token"]["text"] for event in events) == ANSWER
    assert events[-1]["generated_text"] == ANSWER
    body = service.http.generate(PROMPT, max_new_tokens=NEW, stop=["mnop"])
    assert body["generated_text"] == string.ascii_lowercase[:16]
    both = service.http.generate_all([(PROMPT, {"max_new_tokens": NEW}), ("w", {"max_new_tokens": 40})])
    assert [answer["generated_text"] for answer in both] == [ANSWER, "xyz"]
