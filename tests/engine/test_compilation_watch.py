"""What must not happen after warm-up is counted and logged as an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch_xla
from loguru import logger

from engine.checkpoints import save
from engine.driver import Driver
from text_generation_server.engine.engine import XlaEngine
from text_generation_server.model.checkpoint import load_config, load_model
from text_generation_server.model.load import place_on_device


@pytest.fixture
def engine(tmp_path: Path) -> XlaEngine:
    directory = save("llama", tmp_path)
    made = place_on_device(load_model(directory, load_config(directory), 64, torch.float32), batch_size=2)
    made.warm_up(lambda _: None)
    return made


@pytest.fixture
def errors() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level="ERROR")
    yield messages
    logger.remove(handler)


def test_serving_reports_nothing(engine: XlaEngine, errors: list[str]) -> None:
    driver = Driver(engine)
    driver.join(0, [5, 6, 7])
    driver.step(3)
    assert engine.compilations_after_warm_up == 0
    assert errors == []


def test_a_compilation_after_warm_up_is_counted_and_logged_once(engine: XlaEngine, errors: list[str]) -> None:
    driver = Driver(engine)
    driver.join(0, [5, 6, 7])
    # A shape that no program has.
    (torch.ones(7, 13).to(torch_xla.device()) @ torch.ones(13, 3).to(torch_xla.device())).cpu()
    driver.step(3)
    assert engine.compilations_after_warm_up == 1
    assert len(errors) == 1
    assert "compiled after warm-up" in errors[0]


@pytest.mark.falls_back
def test_a_fallback_to_the_host_is_logged_with_its_name(engine: XlaEngine, errors: list[str]) -> None:
    driver = Driver(engine)
    driver.join(0, [5, 6, 7])
    torch.bincount(torch.tensor([1, 2, 2]).to(torch_xla.device())).cpu()
    driver.step(1)
    assert any("fell back to the host" in message and "bincount" in message for message in errors)


def test_without_warm_up_programs_are_compiled_when_they_are_needed(
    tmp_path: Path, errors: list[str]
) -> None:
    directory = save("llama", tmp_path)
    engine = place_on_device(load_model(directory, load_config(directory), 64, torch.float32), batch_size=2)
    driver = Driver(engine)
    run = driver.join(0, [5, 6, 7])
    driver.step(3)
    assert len(run.tokens) == 4
    assert errors == []
