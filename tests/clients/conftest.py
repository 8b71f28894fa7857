"""One service for the whole room: a real shard behind the embedded router, and behind the stock programs.

Every test runs against both; the second one is skipped where the stock programs are not in PATH.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub.errors
import jsonschema
import openai
import pytest
from huggingface_hub import InferenceClient

from clients.differences import Difference
from stock_router.http_client import HttpClient
from stock_router.oracle import Oracle
from stock_router.questions import SHORTLY_ANSWERED
from stock_router.stock_programs import LAUNCHER, ROUTERS, environment, need
from stock_router.stock_service import StockService, free_port, launched, start
from tpu_tgi import demo_model

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
SERVER = [sys.executable, "-m", "text_generation_server.cli"]
BATCH_SIZE = 4
MAX_LENGTH = 320
LENGTHS = [
    *("--max-batch-size", str(BATCH_SIZE), "--max-total-tokens", str(MAX_LENGTH)),
    *("--max-input-tokens", str(MAX_LENGTH - 1), "--max-batch-prefill-tokens", str(MAX_LENGTH)),
]

PROMPT = "The capital of France is"
QUESTION = "What is Deep Learning?"
ANSWER_TOKENS = 8

# How a test fails in front of a router that refuses, or answers otherwise.
REFUSALS = (
    AssertionError,
    jsonschema.ValidationError,
    openai.APIError,
    huggingface_hub.errors.HfHubHTTPError,
)


@dataclass(frozen=True)
class Service:
    """Where clients go. `is_stock`: launcher and router are TGI's own."""

    url: str
    is_stock: bool

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="x", max_retries=0)

    @cached_property
    def hub(self) -> InferenceClient:
        return InferenceClient(model=self.url, provider="hf-inference", timeout=240)


@pytest.fixture(scope="package", params=["embedded", "stock"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    is_stock = request.param == "stock"
    if is_stock:
        need(LAUNCHER, ROUTERS["v3"])
    demo_model.prepare(MODEL)
    directory = tmp_path_factory.mktemp(request.param)
    with stock(directory) if is_stock else embedded(directory) as running:
        running.wait_until_ready()
        yield Service(f"http://127.0.0.1:{running.http.port}", is_stock)
        running.stop()


@pytest.fixture(scope="package")
def oracle() -> Oracle:
    demo_model.prepare(MODEL)
    return Oracle(MODEL, [PROMPT, QUESTION], [QUESTION, SHORTLY_ANSWERED])


def stock(directory: Path) -> AbstractContextManager[StockService]:
    flags = [*LENGTHS, "--waiting-served-ratio", "0"]
    return launched(directory, MODEL, *flags, router="v3", server=SERVER)


@contextmanager
def embedded(directory: Path) -> Iterator[StockService]:
    port = free_port()
    command = [sys.executable, "-m", "tpu_tgi", "--embedded", "--model-id", str(MODEL)]
    command += ["--hostname", "127.0.0.1", "--port", str(port)]
    command += ["--shard-uds-path", str(directory / "shard"), *LENGTHS]
    programs = directory / "bin"
    programs.mkdir()
    script = programs / "text-generation-server"
    script.write_text(f'#!/bin/sh\nexec {" ".join(SERVER)} "$@"\n')
    script.chmod(0o755)
    launcher = start(command, directory, environment({}, programs))
    with HttpClient(port) as http:
        try:
            yield StockService(launcher, http)
        finally:
            launcher.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What differs must fail in front of the stock router."""
    for item in items:
        marker = item.get_closest_marker("differs")
        if marker is not None and "stock" in item.name:
            difference: Difference = marker.args[0]
            item.add_marker(pytest.mark.xfail(strict=True, raises=REFUSALS, reason=difference.value))
