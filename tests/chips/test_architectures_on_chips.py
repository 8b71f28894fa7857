"""Every architecture gives the tokens of one chip on several, whether they divide its key heads or not."""

import random
from pathlib import Path

import pytest

from support import engines
from support.checkpoints import RECIPES, save
from support.driver import Driver

EVERY_NUMBER = ("gemma2", "gpt2", "gpt_neox", "llama", "phi3")
"""One of each kind: bounded scores and a window, a vocabulary in one table, fused projections of three kinds."""

NUMBERS = (2, 4, 8)

CASES = [
    *((recipe, NUMBERS[place % 3]) for place, recipe in enumerate(RECIPES) if recipe not in EVERY_NUMBER),
    *((recipe, chips) for recipe in EVERY_NUMBER for chips in NUMBERS),
]


@pytest.mark.parametrize(("recipe", "chips"), CASES)
def test_an_architecture_gives_the_tokens_of_one_chip(recipe: str, chips: int, tmp_path: Path) -> None:
    directory = save(recipe, tmp_path)
    chance = random.Random(recipe)
    prompts = [[chance.randrange(3, 160) for _ in range(length)] for length in (1, 5, 12, 23)]

    def tokens(count: int) -> list[list[int]]:
        # Eight slots can be shared by any of the numbers; only the programs that are needed are made.
        options = {"batch_size": 8, "max_length": 64, "skip_warmup": True}
        driver = Driver(engines.loader(directory, chips=count, **options).load())
        runs = [driver.join(slot, prompt) for slot, prompt in enumerate(prompts)]
        # Beyond a sliding window of 16.
        driver.step(20)
        return [run.tokens for run in runs]

    assert tokens(chips) == tokens(1)
