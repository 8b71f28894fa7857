"""The program curl: what goes over the wire, byte for byte."""

import json
import re
import shutil
import subprocess

import pytest

from clients.conftest import PROMPT, QUESTION, Service
from stock_router.oracle import Oracle

TIMES = {
    "x-total-time",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
}
ALWAYS = {"x-compute-type", "x-compute-characters"}


def curl(service: Service, path: str, body: object = None, *options: str) -> tuple[int, dict[str, str], str]:
    """Status, headers with names in small letters, and body."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not in PATH: install it with the system's package manager")
    command = ["curl", "--silent", "--show-error", "--include", "--no-buffer", "--noproxy", "*", *options]
    if body is not None:
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        command += ["--header", "content-type: application/json", "--data-binary", text]
    result = subprocess.run([*command, service.url + path], capture_output=True, timeout=240, check=True)
    head, _, answer = result.stdout.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, answer


def without_times(text: str) -> str:
    return re.sub(r'"created":\d+', '"created":0', text)


def test_generate(service: Service, oracle: Oracle) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}}
    status, headers, answer = curl(service, "/generate", body)
    expected = oracle.greedy(PROMPT, 3).text
    assert (status, answer) == (200, json.dumps({"generated_text": expected}, separators=(",", ":")))
    assert headers["content-type"] == "application/json"
    numbers = {name for name in headers if name.startswith("x-") and name != "x-request-id"}
    assert numbers == TIMES | ALWAYS | {"x-compute-time", "x-prompt-tokens", "x-generated-tokens"}
    assert all(headers[name].isdigit() for name in TIMES)
    assert headers["x-generated-tokens"] == "3"


def test_a_stream_of_tokens(service: Service, oracle: Oracle) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2, "details": True}}
    status, headers, answer = curl(service, "/generate_stream", body)
    expected = oracle.greedy(PROMPT, 2)
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert {name for name in headers if name.startswith("x-") and name != "x-request-id"} == ALWAYS | {
        "x-accel-buffering"
    }
    form = (
        r'data: \{"index":1,"token":\{"id":%d,"text":"[^"]*","logprob":-\d\.\d+,"special":false\},'
        r'"generated_text":null,"details":null\}\n\n'
        r'data: \{"index":2,"token":\{"id":%d,"text":"[^"]*","logprob":-\d\.\d+,"special":false\},'
        r'"generated_text":"[^"]*","details":\{"finish_reason":"length","generated_tokens":2,"seed":null,'
        r'"input_length":\d+\}\}\n\n'
    )
    assert re.fullmatch(form % tuple(expected.token_ids), answer)


def test_a_chat(service: Service, oracle: Oracle) -> None:
    prompt = oracle.chat_prompt(QUESTION)
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 2}
    status, headers, answer = curl(service, "/v1/chat/completions", body)
    model = json.loads(curl(service, "/info")[2])["model_id"]
    length = len(oracle.tokenizer(prompt)["input_ids"])
    text = json.dumps(oracle.greedy(prompt, 2).text)
    assert status == 200
    assert without_times(answer) == (
        f'{{"object":"chat.completion","id":"","created":0,"model":"{model}","system_fingerprint":"3.3.6-dev0-'
        f'native","choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},"logprobs":null,'
        f'"finish_reason":"length"}}],"usage":{{"prompt_tokens":{length},"completion_tokens":2,'
        f'"total_tokens":{length + 2}}}}}'
    )
    assert headers["x-compute-characters"] == str(len(prompt))


def test_a_stream_of_a_chat(service: Service, oracle: Oracle) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 2}
    answer = curl(service, "/v1/chat/completions", body | {"stream": True, "model": "m"})[2]
    texts = [oracle.tokenizer.decode(i) for i in oracle.greedy(oracle.chat_prompt(QUESTION), 2).token_ids]
    reasons = ["null", '"length"']
    assert without_times(answer) == (
        "".join(
            'data: {"object":"chat.completion.chunk","id":"","created":0,"model":"m","system_fingerprint":'
            '"3.3.6-dev0-native","choices":[{"index":0,"delta":{"role":"assistant","content":'
            f'{json.dumps(text)}}},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}\n\n'
            for text, reason in zip(texts, reasons, strict=True)
        )
        + "data: [DONE]\n\n"
    )


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_what_is_no_json_is_refused_in_plain_text(service: Service, path: str) -> None:
    status, headers, answer = curl(service, path, "{")
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert answer.startswith("Failed to parse the request body as JSON: ")
    assert curl(service, path, "{}")[0] == 422
    assert curl(service, path, None, "--data", "a=b")[0] == 415


def test_tokens_have_their_place_in_bytes(service: Service, oracle: Oracle) -> None:
    text = "hé 漢字 👋🏽 <|im_end|>x"
    tokens = json.loads(curl(service, "/tokenize", {"inputs": text})[2])
    assert [token["id"] for token in tokens] == oracle.tokenizer(text)["input_ids"]
    for token in tokens:
        assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]


def test_a_chat_is_written_as_transformers_writes_it(service: Service, oracle: Oracle) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}]}
    answer = json.loads(curl(service, "/chat_tokenize", body)[2])
    assert answer["templated_text"] == oracle.chat_prompt(QUESTION)


def test_paths_and_methods_that_do_not_exist(service: Service) -> None:
    assert curl(service, "/v1/embeddings", {})[::2] == (404, "")
    assert curl(service, "/v1/chat/completions")[::2] == (405, "")
