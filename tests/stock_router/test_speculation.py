"""Speculation behind the stock routers: the same answers, several tokens to a step, and slots filled to their end."""

import json
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
    model = chatting(spelling_checkpoint(tmp_path / "model"))
    with launched(tmp_path, model, *flags, router=router, server=SPELLING_SERVER) as service:
        service.wait_until_ready()
        check(service)
        skipped = service.http.metric("tgi_request_skipped_tokens_sum")
        assert (skipped > 0) == (drafts > 0)
        service.stop()


def chatting(model: Path) -> Path:
    """The same checkpoint, with a template that is what was said."""
    path = model / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return model


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
    messages = [{"role": "user", "content": PROMPT}]
    chat = {"model": "any", "messages": messages, "max_tokens": 40, "temperature": 0.0}
    answer = service.http.post("/v1/chat/completions", chat).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == ANSWER[:40]
    assert answer["usage"]["completion_tokens"] == 40
    with service.http.opened("/v1/chat/completions", {**chat, "stream": True}) as stream:
        *chunks, end = list(stream)
    deltas = [json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(deltas) == ANSWER[:40]
    assert end == "[DONE]"
