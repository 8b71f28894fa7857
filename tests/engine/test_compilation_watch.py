"""What must not happen after warm-up is counted and logged as an error."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from loguru import logger

from support import engines
from support.checkpoints import save
from support.driver import Driver
from text_generation_server.engine.engine import StaticBatchEngine


@pytest.fixture
def engine(tmp_path: Path) -> StaticBatchEngine:
    return engines.engine(save("llama", tmp_path), batch_size=2, max_length=64)


@pytest.fixture
def errors() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level="ERROR")
    yield messages
    logger.remove(handler)


def test_serving_reports_nothing(engine: StaticBatchEngine, errors: list[str]) -> None:
    driver = Driver(engine)
    driver.join(0, [5, 6, 7])
    driver.step(3)
    assert engine.statistics().compilations_after_warm_up == 0
    assert errors == []


def test_a_compilation_after_warm_up_is_counted_and_logged_once(
    engine: StaticBatchEngine, errors: list[str]
) -> None:
    driver = Driver(engine)
    driver.join(0, [5, 6, 7])
    # A shape that no program has.
    jax.jit(lambda x: x @ x.T)(np.ones((7, 13), np.float32)).block_until_ready()
    driver.step(3)
    assert engine.statistics().compilations_after_warm_up == 1
    assert len(errors) == 1
    assert "compiled after warm-up" in errors[0]


def test_without_warm_up_programs_are_compiled_when_they_are_needed(
    tmp_path: Path, errors: list[str]
) -> None:
    directory = save("llama", tmp_path)
    engine = engines.loader(directory, batch_size=2, max_length=64, skip_warmup=True).load()
    driver = Driver(engine)
    run = driver.join(0, [5, 6, 7])
    driver.step(3)
    assert len(run.tokens) == 3
    assert errors == []
