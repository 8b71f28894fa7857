"""The demo model on an engine of batch size 4, warmed up once for all tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from support import engines
from support.compilation import compilation_as_served
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.model.configuration import eos_token_ids, load_config, load_tokenizer
from tpu_tgi import demo_model

DIRECTORY = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class LoadedEngine:
    """A warm engine of the demo model, and what makes text of its tokens."""

    engine: StaticBatchEngine
    tokenizer: Any
    eos_token_ids: frozenset[int]


@pytest.fixture(scope="session")
def model_directory() -> Path:
    demo_model.prepare(DIRECTORY)
    return DIRECTORY


@pytest.fixture(scope="session")
def warmed_up(model_directory: Path) -> LoadedEngine:
    with compilation_as_served():
        engine = engines.engine(model_directory, batch_size=4, max_length=512)
    tokenizer = load_tokenizer(model_directory)
    ids = eos_token_ids(model_directory, load_config(model_directory), tokenizer)
    return LoadedEngine(engine, tokenizer, ids)


@pytest.fixture
def loaded(warmed_up: LoadedEngine) -> Iterator[LoadedEngine]:
    """The engine with all slots free, before and after."""
    yield warmed_up
    for slot in range(warmed_up.engine.info.batch_size):
        warmed_up.engine.release(slot)


@pytest.fixture(scope="session")
def reference(model_directory: Path) -> PreTrainedModel:
    """The same weights in transformers, eager on the CPU."""
    return AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
