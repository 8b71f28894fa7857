"""Chips that share experts give the tokens of one, and meet as often as for a dense model."""

import random
from pathlib import Path

import pytest

from benchmarks.collectives import collectives
from support import engines
from support.checkpoints import save
from support.driver import Driver

CHANCE = random.Random(4)
# So long that their tokens are sorted by expert.
PROMPTS = [[CHANCE.randrange(3, 160) for _ in range(length)] for length in (90, 110)]


@pytest.mark.parametrize("quantize", [None, "int8"])
# All experts at once, and those that were chosen.
@pytest.mark.parametrize("recipe", ["mixtral", "qwen3_moe"])
def test_chips_meet_twice_a_layer_and_give_the_tokens_of_one(
    recipe: str, quantize: str | None, tmp_path: Path
) -> None:
    directory = save(recipe, tmp_path)
    given = {}
    for chips in (1, 2):
        engine = engines.loader(
            directory, chips=chips, batch_size=2, max_length=128, quantize=quantize, skip_warmup=True
        ).load()
        driver = Driver(engine)
        runs = [driver.join(slot, prompt) for slot, prompt in enumerate(PROMPTS)]
        driver.step(15)
        given[chips] = [run.tokens for run in runs]
    assert given[2] == given[1]
    # Two for each of two layers, and one for the embedding. Of the last layer a prompt needs keys and values only.
    for name, count in (("forward 128", 5), ("extend 1x128", 3)):
        hlo = engine._programs[name]._compiled.as_text()  # type: ignore[attr-defined]
        assert collectives(hlo, unknown_trips=16) == {"all-reduce": count}, name
