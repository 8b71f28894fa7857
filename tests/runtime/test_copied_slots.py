"""The kernel that seats a request copies a slot block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from text_generation_server.runtime import kernels


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("source", [0, 2])
@pytest.mark.parametrize("length", [32, 80, 96])
def test_a_slot_gets_what_is_kept_of_another_or_of_itself_and_zeros(
    positions: int, source: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "COPIED_BLOCK", 32)
    chance = np.random.default_rng(length)
    cache = np.moveaxis(chance.normal(size=(3, length, 4)).astype(np.float32), 1, positions)
    # What another request left where nothing is kept.
    is_kept = chance.random(length) < 0.7
    spoilt = np.moveaxis(cache, positions, 1)
    spoilt[source, ~is_kept] = np.nan
    copied = jax.jit(kernels.copy_slot, static_argnames=("positions", "paired"))(
        cache,
        jnp.array([2], jnp.int32),
        jnp.array([source], jnp.int32),
        is_kept,
        positions=positions,
        paired=False,
    )
    expected = np.moveaxis(cache.copy(), positions, 1)
    expected[2] = np.where(is_kept[:, None], expected[source], 0)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(copied), positions, 1), expected)
