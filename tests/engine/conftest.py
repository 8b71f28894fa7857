"""The demo model on an engine of batch size 4, warmed up once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from text_generation_server.engine.contract import WarmupStep
from text_generation_server.lowering import measurement
from text_generation_server.model.load import LoadedEngine, load_engine
from tpu_tgi import demo_model

DIRECTORY = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def nothing_falls_back_to_the_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """Holds for every test of the engine, but for the one that provokes it."""
    before = measurement.fallbacks()
    yield
    if request.node.get_closest_marker("falls_back") is None:
        assert measurement.fallbacks() == before


@pytest.fixture(scope="session")
def model_directory() -> Path:
    demo_model.prepare(DIRECTORY)
    return DIRECTORY


@pytest.fixture(scope="session")
def warm_up_steps() -> list[WarmupStep]:
    """Filled by the `loaded` fixture."""
    return []


@pytest.fixture(scope="session")
def warmed_up(model_directory: Path, warm_up_steps: list[WarmupStep]) -> LoadedEngine:
    loaded = load_engine(model_directory, batch_size=4, max_length=512, dtype=None)
    loaded.engine.warm_up(warm_up_steps.append)
    return loaded


@pytest.fixture
def loaded(warmed_up: LoadedEngine) -> Iterator[LoadedEngine]:
    """The engine with all slots free, before and after."""
    yield warmed_up
    for slot in range(warmed_up.engine.limits.batch_size):
        warmed_up.engine.release(slot)


@pytest.fixture(scope="session")
def reference(model_directory: Path) -> PreTrainedModel:
    """The same weights in transformers, eager on the CPU."""
    return AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
