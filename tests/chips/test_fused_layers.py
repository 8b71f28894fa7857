"""Layers that compute queries, keys and values at once are split by whole heads."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.collectives import collectives
from support import engines
from support.checkpoints import save
from support.driver import Driver
from support.lora_adapters import save_adapter
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.model.fused import Fused

CHANCE = random.Random(3)
PROMPTS = [[CHANCE.randrange(3, 160) for _ in range(length)] for length in (5, 23)]


def tokens(engine: StaticBatchEngine, adapter: str | None) -> list[list[int]]:
    driver = Driver(engine)
    runs = [driver.join(slot, prompt, adapter=adapter) for slot, prompt in enumerate(PROMPTS)]
    driver.step(15)
    for slot in range(len(PROMPTS)):
        driver.leave(slot)
    return [run.tokens for run in runs]


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("recipe", ["phi3", "gpt2"])
def test_chips_meet_twice_a_layer_and_give_the_tokens_of_one_with_an_adapter(
    recipe: str, quantize: str | None, tmp_path: Path
) -> None:
    directory = save(recipe, tmp_path / "model")
    adapters = [("one", save_adapter(directory, tmp_path / "one", 1, r=3, target_modules="all-linear"))]
    options: dict[str, Any] = {"batch_size": 2, "max_length": 64, "quantize": quantize, "skip_warmup": True}
    given = {}
    for chips in (1, 2):
        engine = engines.loader(directory, chips=chips, adapters=adapters, **options).load()
        given[chips] = [tokens(engine, None), tokens(engine, "one")]
    assert given[2] == given[1]
    assert given[1][0] != given[1][1], "the adapter does something"
    if not quantize:
        plain = engines.loader(directory, chips=2, **options).load()
        hlo = plain._programs["forward 64"]._compiled.as_text()  # type: ignore[attr-defined]
        # Two for each of two layers, and one for the embedding.
        assert collectives(hlo) == {"all-reduce": 5}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_has_its_share_of_each_part_and_the_outputs_come_back_in_order(groups: int) -> None:
    fused = Fused((8, 4, 4), groups)
    order = fused.order()
    assert sorted(order) == list(range(16))
    for group in order.reshape(groups, -1):
        assert [np.count_nonzero(np.isin(group, part)) for part in (range(8), range(8, 12))] == [
            8 // groups,
            4 // groups,
        ]
    outputs = torch.arange(16).reshape(1, 1, 16)
    assert torch.equal(fused.in_order(outputs[..., order], torch.cat), outputs)
