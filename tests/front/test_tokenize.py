"""POST /tokenize and /chat_tokenize, against the tokenizers library on the demo model's tokenizer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from front.fake_shard import FakeShard
from front.running_front import RunningFront, running_front
from tpu_tgi import demo_model
from tpu_tgi.router.settings import RouterSettings

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"

TEXTS = ["What is Deep Learning?", "hé 漢字 👋🏽 a  b\n<|im_end|>x", "", "naïve", "\u0301e"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFront]:
    """A fake shard behind a real tokenizer and chat template."""
    demo_model.prepare(MODEL)
    shard = FakeShard(str(tmp_path_factory.mktemp("socket") / "shard-0"))
    with running_front(shard, RouterSettings(model_id=str(MODEL))) as running:
        yield running


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_library_with_offsets_in_bytes(real: RunningFront, text: str) -> None:
    tokens = real.client.post("/tokenize", json={"inputs": text}).json()
    encoding = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text)
    assert [token["id"] for token in tokens] == encoding.ids
    data = text.encode()
    for token, (start, stop) in zip(tokens, encoding.offsets, strict=True):
        assert token["text"] == text[start:stop]
        assert data[token["start"] : token["stop"]] == text[start:stop].encode()


def test_added_tokens_have_no_place_in_the_text(front: RunningFront) -> None:
    response = front.client.post("/tokenize", json={"inputs": "é ab", "parameters": {"truncate": 1}})
    assert response.text == (
        '[{"id":1,"text":"","start":0,"stop":0},{"id":0,"text":"é","start":0,"stop":2},'
        '{"id":0,"text":"ab","start":3,"stop":5}]'
    )


def test_a_chat_is_tokenised_as_the_template_writes_it(real: RunningFront) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "hé 👋🏽"}]
    body = real.client.post("/chat_tokenize", json={"messages": messages}).json()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert body["templated_text"] == text
    assert [token["id"] for token in body["tokenize_response"]] == tokenizer(text)["input_ids"]
    assert "".join(token["text"] for token in body["tokenize_response"][:3]) == "<|im_start|>system\n"


def test_a_chat_that_cannot_be_written_is_refused(real: RunningFront) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "tools": [], "tool_choice": "f"}
    response = real.client.post("/chat_tokenize", json=body)
    assert (response.status_code, response.json()["error_type"]) == (422, "tool_error")
