"""One model on several chips answers as on one; the chips are virtual devices of the CPU (see `tests/conftest.py`)."""

import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import generate, save
from support.discarding import discard_weights
from support.driver import Driver
from text_generation_server.engine.sharding import CacheSplit
from text_generation_server.errors import InvalidSettingError
from text_generation_server.loading.weights import load_weights
from text_generation_server.model.memory import PROGRAMS_GUESS
from text_generation_server.runtime.mesh import open_mesh

CHANCE = random.Random(9)
PROMPTS = [[CHANCE.randrange(3, 160) for _ in range(length)] for length in (1, 5, 23, 40)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(("chips", "split"), [(2, CacheSplit.HEADS), (4, CacheSplit.SLOTS)])
def test_several_chips_generate_what_transformers_generates(
    directory: Path, chips: int, split: CacheSplit
) -> None:
    engine = engines.loader(directory, batch_size=4, max_length=64, chips=chips, skip_warmup=True).load()
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    driver = Driver(engine)
    runs = [driver.join(slot, prompt) for slot, prompt in enumerate(PROMPTS)]
    driver.step(20)
    for run, prompt in zip(runs, PROMPTS, strict=True):
        expected = generate(reference, prompt, 20)
        assert run.tokens == expected.tokens
        torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=1e-3, atol=1e-3)
    # To seat a request one slot travels, and not the cache.
    assert "all-gather" not in engine._programs["seat"]._compiled.as_text()  # type: ignore[attr-defined]
    # The model has two key heads: four chips cannot have whole ones.
    keys = engine._state["keys.0"]
    parts = {shard.data.shape for shard in keys.addressable_shards}
    assert parts == {(4, 64, 1, 16) if split is CacheSplit.HEADS else (1, 64, 2, 16)}


@pytest.mark.parametrize(("chips", "split"), [(2, CacheSplit.HEADS), (4, CacheSplit.SLOTS)])
def test_rings_of_sliding_layers_are_shared_by_chips(chips: int, split: CacheSplit, tmp_path: Path) -> None:
    directory = save("gemma3_text", tmp_path, max_position_embeddings=160)
    engine = engines.loader(
        directory, batch_size=4, max_length=160, prefill_chunk=32, chips=chips, skip_warmup=True
    ).load()
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    driver = Driver(engine)
    prompts = [CHANCE.choices(range(3, 160), k=length) for length in (95, 5, 130, 70)]
    runs = [driver.join(slot, prompt) for slot, prompt in enumerate(prompts)]
    driver.step(25)
    for run, prompt in zip(runs, prompts, strict=True):
        assert run.tokens[:25] == generate(reference, prompt, 25).tokens
    parts = {shard.data.shape for shard in engine._state["keys.0"].addressable_shards}
    assert parts == {(4, 80, 1, 16) if split is CacheSplit.HEADS else (1, 80, 2, 16)}


def test_each_chip_reads_its_slices_and_the_host_never_holds_more_than_two_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save("llama", tmp_path, vocab_size=8000, hidden_size=128, tie_word_embeddings=False)
    loader = engines.loader(directory, batch_size=4, max_length=64, chips=4, dtype="bfloat16")
    read = discard_weights(monkeypatch)
    tracemalloc.start()
    load_weights(loader.description, loader.checkpoint, loader.mesh, loader.sharding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = max(int(np.prod(shape)) for shape in loader.checkpoint.shapes.values()) * 4
    assert peak < 2 * largest
    whole = sum(int(np.prod(shape)) for shape, part in read if part == shape)
    everything = sum(int(np.prod(part)) for _, part in read)
    assert whole < 0.01 * everything, "all but the norms is read in parts"


def test_more_chips_than_there_are_is_refused_with_a_number_that_works() -> None:
    with pytest.raises(
        InvalidSettingError, match=r"--num-shard \(HF_NUM_CHIPS\) is 9, .* has 8: use 8 or less"
    ):
        open_mesh(9)


def test_a_number_of_chips_that_divides_nothing_is_refused_with_those_that_work(directory: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"is 7, which does not divide .*\. 1, 2, 4 would work"):
        engines.loader(directory, chips=7)


def test_without_a_number_as_many_chips_share_the_model_as_divide_it(tmp_path: Path) -> None:
    # Five heads; where the outputs of a layer do not divide, its inputs may.
    sizes = {"hidden_size": 80, "intermediate_size": 80, "vocab_size": 165}
    heads = {"num_attention_heads": 5, "num_key_value_heads": 5}
    loader = engines.loader(save("llama", tmp_path, **sizes, **heads), chips=None)
    assert loader.mesh.size == 8
    loader = engines.loader(
        save("llama", tmp_path, **(sizes | {"hidden_size": 60}), **heads, head_dim=12), chips=None
    )
    assert loader.mesh.size == 6


def test_slots_that_the_chips_cannot_share_are_refused_with_numbers_that_work(directory: Path) -> None:
    with pytest.raises(
        InvalidSettingError, match=r"HF_BATCH_SIZE .* is 6, and 4 chips .*: 4 or 8 would work"
    ):
        engines.loader(directory, batch_size=6, max_length=64, chips=4).load()


def test_each_chip_needs_its_part_of_the_memory(directory: Path) -> None:
    one, four = (
        engines.loader(directory, batch_size=4, max_length=64, chips=n).memory_need() for n in (1, 4)
    )
    assert one.weights / 4 < four.weights < one.weights / 3.5
    assert (four.position, four.slot) == (one.position // 4, one.slot // 4)
    assert four.largest_batch(four.total(7, 64) * 2, 64) % 4 == 0
    message = four.refusal(round(four.total(4, 64) / (1 - PROGRAMS_GUESS)) + 1, 8, 64)
    assert "and each of 4 chips has" in message
    assert "HF_BATCH_SIZE=4 with this length" in message


def test_a_model_larger_than_all_chips_is_refused_with_how_many_would_hold_it(directory: Path) -> None:
    need = engines.loader(directory, batch_size=4, max_length=64, chips=4).memory_need()
    memory = need.weights // 2
    message = need.refusal(memory, 4, 64)
    (chips,) = re.findall(
        r"each of 4 chips has .* for all of it: at least (\d+) such chips \(--num-shard\), --quantize int8 or",
        message,
    )
    assert int(chips) * need.usable(memory) >= 4 * need.weights > (int(chips) - 1) * need.usable(memory)
