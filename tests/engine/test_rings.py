"""Layers with a sliding window keep a ring of positions, and nobody notices but the memory."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import WINDOW, follow, save
from support.driver import Driver, Run
from support.traffic import PLAIN, poison
from text_generation_server.batching.prefixes import BASE, PrefixIndex
from text_generation_server.engine.contract import Prefix
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.rings import Ring

LENGTH = 320
CHUNK = 64
RING = Ring(WINDOW, CHUNK)

OPTIONS: dict[str, Any] = {"max_length": LENGTH, "prefill_chunk": CHUNK, "skip_warmup": True}


def saved(model_type: str, directory: Path, **sizes: int) -> tuple[Path, Any]:
    save(model_type, directory, max_position_embeddings=2 * LENGTH, **sizes)
    return directory, AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def cache_lengths(engine: Any) -> dict[str, int]:
    return {
        name: held.shape[1] for name, held in engine._state.items() if name.startswith(("keys", "values"))
    }


def assert_follows(reference: Any, prompt: list[int], run: Run) -> None:
    expected = follow(reference, prompt, run.tokens)
    assert run.tokens == expected.tokens
    assert run.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


@pytest.mark.parametrize("layout", CacheLayout)
def test_sliding_layers_take_the_memory_of_their_ring(layout: CacheLayout, tmp_path: Path) -> None:
    directory, _ = saved("gemma3_text", tmp_path)
    loader = engines.loader(directory, batch_size=3, layout=layout, **OPTIONS)
    need, engine = loader.memory_need(), loader.load()
    assert cache_lengths(engine) == {
        **{"keys.0": RING.size, "values.0": RING.size},
        **{"keys.1": LENGTH, "values.1": LENGTH},
    }
    cache = [held for name, held in engine._state.items() if name.startswith(("keys", "values"))]
    assert need.cache(3, LENGTH) == sum(held.nbytes for held in cache)
    assert RING.size < LENGTH / 2


@pytest.mark.parametrize(("model_type", "length"), [("llama", LENGTH), ("gemma3_text", RING.size)])
def test_layers_without_a_window_or_with_one_as_long_as_the_slot_keep_all(
    model_type: str, length: int, tmp_path: Path
) -> None:
    directory, _ = saved(model_type, tmp_path)
    loader = engines.loader(directory, batch_size=2, **{**OPTIONS, "max_length": length})
    engine = loader.load()
    assert set(cache_lengths(engine).values()) == {length}
    assert engine.info.ring is None
    cache = [held for name, held in engine._state.items() if name.startswith(("keys", "values"))]
    assert loader.memory_need().cache(2, length) == sum(held.nbytes for held in cache)


@pytest.mark.parametrize(
    ("model_type", "layout"),
    [
        ("gemma3_text", CacheLayout.HEADS),
        ("gemma2", CacheLayout.LANES),
        ("mistral", CacheLayout.HEADS),
        ("granite_swa", CacheLayout.LANES),
    ],
)
def test_long_prompts_that_share_pieces_and_outputs_go_around_the_ring(
    model_type: str, layout: CacheLayout, tmp_path: Path
) -> None:
    # Four key heads of 16 fill half a tile of lanes, so that two slots share a row of Gemma's cache.
    directory, reference = saved(model_type, tmp_path, num_key_value_heads=4 if model_type == "gemma2" else 2)
    engine = engines.loader(directory, batch_size=4, layout=layout, **OPTIONS).load()
    poison(engine)
    chance = random.Random(model_type)
    # The third fills its slot, so that its last piece begins further ahead; all take part in the same pieces.
    prompts = [chance.choices(range(3, 160), k=length) for length in (250, 20, LENGTH - 21, 61)]
    for slot, prompt in enumerate(prompts):
        engine.fill(slot, prompt, PLAIN)
    runs = {slot: Run(slot) for slot in range(4)}
    driver = Driver(engine)
    live: set[int] = set()
    while len(live) < 4:
        live |= set(engine.extend().completed)
        driver.running = {slot: runs[slot] for slot in live if len(runs[slot].tokens) < 20}
        if driver.running:
            driver.step()
        for slot in live:
            if len(runs[slot].tokens) == 20:
                engine.release(slot)
    driver.step(20 - min(len(run.tokens) for run in driver.running.values()))
    for slot, prompt in enumerate(prompts):
        runs[slot].tokens, runs[slot].logprobs = runs[slot].tokens[:20], runs[slot].logprobs[:20]
        assert_follows(reference, prompt, runs[slot])


@pytest.mark.parametrize("model_type", ["gemma3_text", "mistral"])
def test_a_released_slot_keeps_its_prefix_while_others_go_on(model_type: str, tmp_path: Path) -> None:
    directory, reference = saved(model_type, tmp_path)
    engine = engines.loader(directory, batch_size=3, **OPTIONS).load()
    driver, chance = Driver(engine), random.Random(3)
    prompt = chance.choices(range(3, 160), k=200)
    driver.join(0, prompt)
    driver.step(3)
    driver.leave(0)
    other = chance.choices(range(3, 160), k=30)
    run = driver.join(1, other)
    # Far more than the ring has room for behind the window.
    driver.step(RING.size + 10)
    index = index_with(prompt, held=203)
    longer = [*prompt, *chance.choices(range(3, 160), k=9)]
    assert index.find(longer, BASE).prefix == Prefix(0, 200)
    again = driver.join(2, longer, prefix=Prefix(0, 200))
    driver.step(5)
    assert_follows(reference, longer, again)
    driver.leave(2)
    # In its own slot.
    in_place = driver.join(0, longer, prefix=Prefix(0, 200))
    driver.step(5)
    assert_follows(reference, longer, in_place)
    assert_follows(reference, other, run)


def index_with(prompt: list[int], held: int) -> PrefixIndex:
    """Slot 0 holds a prompt and what was said since."""
    index = PrefixIndex(2, LENGTH, RING)
    index.begin(0, prompt, BASE, None)
    index.extended(0, len(prompt) - 1)
    for token in range(held - len(prompt) + 1):
        index.chose(0, 3 + token)
    index.released(0)
    return index


@pytest.mark.parametrize("model_type", ["gemma3_text", "mistral"])
def test_the_shortest_prefix_that_is_at_hand_is_right_and_a_shorter_one_is_not_at_hand(
    model_type: str, tmp_path: Path
) -> None:
    directory, reference = saved(model_type, tmp_path)
    engine = engines.loader(directory, batch_size=2, **OPTIONS).load()
    chance = random.Random(4)
    prompt = chance.choices(range(3, 160), k=250)
    index = index_with(prompt, held=249)

    def asks(common: int) -> list[int]:
        return [*prompt[:common], 2, 2, 2]

    at_hand = [common for common in range(1, 249) if index.find(asks(common), BASE).prefix]
    shortest = min(at_hand)
    assert at_hand == list(range(shortest, 249))
    # It may be shorter by a piece than what the slot holds.
    assert 249 - shortest >= CHUNK
    driver = Driver(engine)
    driver.join(0, prompt)
    driver.leave(0)
    run = driver.join(1, asks(shortest), prefix=Prefix(0, shortest))
    driver.step(5)
    assert_follows(reference, asks(shortest), run)
    # What was not copied from there is not at hand in the new slot either.
    index.begin(1, asks(shortest), BASE, Prefix(0, shortest))
    index.extended(1, shortest + 2)
    index.begin(0, [9, 9], BASE, None)
    assert index.find(asks(shortest - 1), BASE).prefix is None
    assert index.find([*prompt[:shortest], 7, 7], BASE).prefix == Prefix(1, shortest)


def test_a_slot_that_never_went_around_gives_every_prefix() -> None:
    prompt = list(range(50))
    index = index_with(prompt, held=RING.size - CHUNK)
    assert [index.find([*prompt[:common], 99], BASE).prefix for common in range(1, 50)] == [
        Prefix(0, common) for common in range(1, 50)
    ]


@pytest.mark.parametrize("ring", [Ring(16, 32), Ring(100, 64)])
def test_a_piece_is_written_around_the_end_of_a_ring(ring: Ring) -> None:
    import jax.numpy as jnp

    from text_generation_server.runtime.kernels import write_pieces

    chance = np.random.default_rng(1)
    width, size = ring.widest, ring.size
    cache = chance.normal(size=(3, size, 2, 4)).astype(np.float32)
    starts = [0, size - 5, 3 * size + size - width, 7 * size - 1]
    new = chance.normal(size=(4, width, 2, 4)).astype(np.float32)
    # Two of one slot, one after the other.
    slots = [0, 2, 1, 1]
    expected = cache.copy()
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        for ahead in range(width):
            expected[slot, (start + ahead) % size] = new[row, ahead]
    written = write_pieces(
        jnp.array(cache), jnp.array(new), jnp.array(slots, jnp.int32), jnp.array(starts, jnp.int32), ring=True
    )
    np.testing.assert_array_equal(written, expected)
