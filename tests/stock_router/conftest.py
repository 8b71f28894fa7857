"""Services that stand for all tests of this room: stock launcher, stock router of either version, our shard.

`service` runs the demo model, for what clients see of a real one. `speller` runs a model whose answers are known
and whose steps cost nothing, for what happens between launcher, router and shard.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stock_router.oracle import Oracle
from stock_router.questions import AFTER_A_SPACE, PROMPTS, QUESTION, SHORTLY_ANSWERED
from stock_router.stock_programs import LAUNCHER, ROUTERS, need
from stock_router.stock_service import StockService, launched
from tpu_tgi import demo_model
from wire.shard_process import COMMAND as SPELLING_SERVER
from wire.shard_process import spelling_checkpoint

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
SERVER = [sys.executable, "-m", "text_generation_server.cli"]
BATCH_SIZE = 4
MAX_LENGTH = 128
SPELLER_BATCH_SIZE = 8
SPELLER_MAX_LENGTH = 4096


@pytest.fixture(scope="package", params=["v3", "v2"])
def router(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    need(LAUNCHER, ROUTERS[version])
    return version


@pytest.fixture(scope="package")
def oracle() -> Oracle:
    demo_model.prepare(MODEL)
    return Oracle(MODEL, [*PROMPTS, AFTER_A_SPACE], [QUESTION, SHORTLY_ANSWERED])


@pytest.fixture(scope="package")
def service(router: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockService]:
    demo_model.prepare(MODEL)
    flags = [
        *("--max-batch-size", str(BATCH_SIZE), "--max-total-tokens", str(MAX_LENGTH)),
        *("--max-input-tokens", str(MAX_LENGTH - 1)),
        *("--max-batch-prefill-tokens", str(BATCH_SIZE * MAX_LENGTH), "--waiting-served-ratio", "0"),
    ]
    directory = tmp_path_factory.mktemp("service")
    with launched(directory, MODEL, *flags, router=router, server=SERVER) as service:
        service.wait_until_ready()
        yield service
        service.stop()


@pytest.fixture(scope="package")
def speller(router: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockService]:
    """The router is not told the batch size: only the shard knows how many slots there are."""
    directory = tmp_path_factory.mktemp("speller")
    flags = [
        *("--max-total-tokens", str(SPELLER_MAX_LENGTH), "--max-input-tokens", str(SPELLER_MAX_LENGTH - 1)),
        *("--max-batch-prefill-tokens", str(SPELLER_MAX_LENGTH), "--waiting-served-ratio", "0"),
        "--enable-prefill-logprobs",
    ]
    with launched(
        directory,
        spelling_checkpoint(directory / "model"),
        *flags,
        router=router,
        server=SPELLING_SERVER,
        variables={"HF_BATCH_SIZE": str(SPELLER_BATCH_SIZE), "STEP_SECONDS": "0.01"},
    ) as service:
        service.wait_until_ready()
        yield service
        service.stop()
