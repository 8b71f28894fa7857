"""The engines that are held to the contract."""

from pathlib import Path

import pytest

from support import engines
from support.checkpoints import save
from support.lora_adapters import save_adapter
from text_generation_server.engine.contract import Engine
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.fake import FakeEngine

MAX_LENGTH = 16


@pytest.fixture(scope="module")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> StaticBatchEngine:
    """A tiny random model, warm; whatever a test leaves in its slots must not matter to the next."""
    directory: Path = tmp_path_factory.mktemp("contract")
    checkpoint = save("llama", directory / "model")
    adapter = save_adapter(checkpoint, directory / "one", 0, r=2, target_modules="all-linear")
    return engines.engine(
        checkpoint, batch_size=2, max_length=MAX_LENGTH, adapters=[("one", adapter)], speculate=3, steps=4
    )


@pytest.fixture(params=["fake", "real"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine of two free slots of MAX_LENGTH tokens that has an adapter named "one", takes three drafts for a slot
    and four steps at a time, and does not score prompts.
    """
    if request.param == "fake":
        return FakeEngine(
            batch_size=2, max_length=MAX_LENGTH, scores_prompts=False, adapters=("one",), drafts=3, steps=4
        )
    real: StaticBatchEngine = request.getfixturevalue("real_engine")
    for slot in range(real.info.batch_size):
        real.release(slot)
    return real
