"""LoRA adapters behind the stock launcher and router, against PEFT."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stock_router.conftest import SERVER
from stock_router.stock_programs import LAUNCHER, ROUTERS, need
from stock_router.stock_service import StockService, launched
from support.checkpoints import generate, save
from support.lora_adapters import Oracle, save_adapter
from wire.spelling_model import spelling_tokenizer

PROMPT = "abcde"
ADAPTERS: dict[str, dict[str, Any]] = {
    "sql": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "law": {"r": 8, "target_modules": "all-linear"},
}
FLAGS = ["--max-batch-size", "4", "--max-total-tokens", "64", "--max-input-tokens", "63"]


@dataclass(frozen=True)
class WithAdapters:
    """A service with two adapters, and the greedy tokens that transformers and PEFT give after PROMPT."""

    service: StockService
    expected: dict[str | None, list[int]]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithAdapters]:
    need(LAUNCHER, ROUTERS["v3"])
    directory = tmp_path_factory.mktemp("adapters")
    tokenizer = spelling_tokenizer()
    checkpoint = save("llama", directory / "model", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(checkpoint)
    paths = {
        name: save_adapter(checkpoint, directory / name, seed, **config)
        for seed, (name, config) in enumerate(ADAPTERS.items())
    }
    oracle = Oracle(checkpoint, paths)
    prompt = tokenizer(PROMPT)["input_ids"]
    expected = {name: generate(oracle.model(name), prompt, 12).tokens for name in (None, *ADAPTERS)}
    flags = [*FLAGS, "--max-batch-prefill-tokens", "64", "--waiting-served-ratio", "0"]
    flags += ["--lora-adapters", ",".join(f"{name}={path}" for name, path in paths.items())]
    with launched(directory, checkpoint, *flags, router="v3", server=SERVER) as service:
        service.wait_until_ready()
        yield WithAdapters(service, expected)
        service.stop()


def test_requests_with_different_adapters_are_answered_at_the_same_time_as_by_peft(
    adapted: WithAdapters,
) -> None:
    names = [None, "sql", "law", "a-model-name", "law", "sql"]
    bodies = [
        {"max_new_tokens": 12, "details": True} | ({"adapter_id": name} if name else {}) for name in names
    ]
    answers = adapted.service.http.generate_all([(PROMPT, body) for body in bodies])
    assert len({tuple(tokens) for tokens in adapted.expected.values()}) == 3
    for name, answer in zip(names, answers, strict=True):
        expected = adapted.expected[name if name in ADAPTERS else None]
        tokens = [token["id"] for token in answer["details"]["tokens"]]
        # The random model may say EOS.
        assert tokens == expected[: len(tokens)]
        assert len(tokens) == 12 or answer["details"]["finish_reason"] == "eos_token"


@pytest.mark.parametrize("model", ["sql", "tgi", "a-model-name"])
def test_an_openai_client_chooses_an_adapter_by_the_models_name(adapted: WithAdapters, model: str) -> None:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    choice = adapted.service.http.post("/v1/completions", body).raise_for_status().json()["choices"][0]
    tokens = adapted.expected[model if model in ADAPTERS else None]
    text = spelling_tokenizer().decode(tokens, skip_special_tokens=True)
    assert text.startswith(choice["text"])
    assert choice["text"]
