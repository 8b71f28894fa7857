"""What slots without a request cost the others: of a mixture of experts, they choose none that would be read."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from jax import Array

from support.checkpoints import save
from support.driver import Driver
from text_generation_server.loading.engine import EngineLoader, EngineOptions
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.runtime import kernels
from text_generation_server.runtime.cache import ProgramCache

SLOTS = 4


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("drafts", [0, 2])
def test_slots_without_a_request_choose_no_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drafts: int
) -> None:
    live, left, tokens = 2, 1, SLOTS * (1 + drafts)
    own = kernels.KERNELS["experts"]

    def spoilt_by_idle_slots(
        hidden: Array, chosen: Array, weights: Array, *others: Array, **facts: Any
    ) -> Array:
        """The kernel, whose results are no numbers if another slot than the live one has an expert."""
        computed = own(hidden, chosen, weights, *others, **facts)
        if chosen.shape[0] != tokens:
            return computed  # A piece of a prompt.
        count = others[facts["names"].index("down")].shape[0]
        has_some = (chosen < count).any(1).reshape(SLOTS, -1).any(1)
        is_spoilt = has_some.at[live].set(False).any()
        return jnp.where(is_spoilt, jnp.nan, computed)

    monkeypatch.setitem(kernels.KERNELS, "experts", spoilt_by_idle_slots)
    options = EngineOptions(batch_size=SLOTS, max_length=64, chips=1, speculate=drafts, skip_warmup=True)
    directory = save("mixtral", tmp_path / "model")
    loader = EngineLoader(directory, options, ProgramCache(tmp_path / "cache"), lowering=LoweringHere())
    driver = Driver(loader.load())
    driver.join(left, [5, 6, 7])
    driver.leave(left)
    run = driver.join(live, [8, 9])
    if drafts:
        run.take(driver.engine.verify({live: [3]}).read())
    else:
        driver.step(2)
    assert run.logprobs
    assert all(logprob <= 0 for logprob in run.logprobs), "an idle slot had experts"
