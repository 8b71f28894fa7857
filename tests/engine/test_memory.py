"""A batch that does not fit is refused before it is allocated, with numbers that fit."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.checkpoints import save
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import initial_state
from text_generation_server.errors import InvalidSettingError
from text_generation_server.model import load
from text_generation_server.model.checkpoint import HostModel, load_config, load_model
from text_generation_server.model.memory import SPARE, MemoryNeed
from text_generation_server.runtime.device_memory import container_memory, free_memory, host_memory

NEEDS = st.builds(MemoryNeed, st.integers(0, 10**10), st.integers(1, 10**6), st.integers(0, 10**6))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> HostModel:
    directory = save("llama", tmp_path_factory.mktemp("model"))
    return load_model(directory, load_config(directory), 64, torch.float32)


@given(NEEDS, st.integers(1, 10**11), st.integers(1, 1000), st.integers(2, 10**5))
def test_the_largest_numbers_fit_and_the_next_ones_do_not(
    need: MemoryNeed, memory: int, batch: int, length: int
) -> None:
    slots, tokens = need.largest_batch(memory, length), need.largest_length(memory, batch)
    assert not slots or need.fits(memory, slots, length)
    assert not need.fits(memory, slots + 1, length)
    assert not tokens or need.fits(memory, batch, tokens)
    assert not need.fits(memory, batch, max(2, tokens + 1))


@given(NEEDS, st.integers(1, 10**11), st.integers(1, 1000), st.integers(2, 10**5))
def test_a_refusal_names_numbers_that_fit(need: MemoryNeed, memory: int, batch: int, length: int) -> None:
    assume(not need.fits(memory, batch, length))
    _, advice = need.refusal(memory, batch, length).split(" for both: ")
    for name, value in re.findall(r"(HF_\w+)=(\d+) with", advice):
        slots, tokens = (int(value), length) if name == "HF_BATCH_SIZE" else (batch, int(value))
        assert need.fits(memory, slots, tokens)
    assert advice.endswith(" would fit")


@pytest.mark.parametrize("layout", CacheLayout)
def test_the_need_is_what_is_allocated(loaded: HostModel, layout: CacheLayout) -> None:
    state = initial_state(
        loaded.cache_shape, layout, 3, 64, loaded.vocab_size, loaded.dtype, torch.device("cpu")
    )
    need = load.memory_need(loaded, layout)
    assert need.cache(3, 64) == sum(tensor.nbytes for tensor in state.cache)
    assert 3 * need.slot == state.rows.counts.nbytes
    assert need.weights == sum(parameter.nbytes for parameter in loaded.model.parameters())


def test_a_batch_that_does_not_fit_is_refused_before_it_is_allocated(
    loaded: HostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = load.memory_need(loaded, CacheLayout.HEADS)
    # On a CPU the weights are there already.
    memory = round(need.total(4, 64) / (1 - SPARE)) + 1
    monkeypatch.setattr(load, "free_memory", lambda: memory - need.weights)
    monkeypatch.setattr(load, "initial_state", lambda *_: pytest.fail("it was allocated"))
    with pytest.raises(InvalidSettingError) as refusal:
        load.place_on_device(loaded, batch_size=1000)
    message = str(refusal.value)
    assert message.startswith("HF_BATCH_SIZE=1000 and HF_SEQUENCE_LENGTH=64 need ")
    assert ": HF_BATCH_SIZE=4 with this length would fit" in message


def test_an_allocation_that_fails_is_explained_with_the_devices_words(
    loaded: HostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(load, "free_memory", lambda: None)
    monkeypatch.setattr(load, "initial_state", fail)
    with pytest.raises(InvalidSettingError) as refusal:
        load.place_on_device(loaded, batch_size=2)
    message = str(refusal.value)
    assert "does not fit in the memory of the device: lower one of the two numbers" in message
    assert message.endswith(": RESOURCE_EXHAUSTED: out of memory more")


def test_free_memory_is_that_of_the_host_or_of_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  2000 kB\nMemFree:  100 kB\nMemAvailable:  1000 kB\n")
    assert host_memory(meminfo) == 1000 * 1024
    assert host_memory(tmp_path / "absent") is None
    (tmp_path / "memory.stat").write_text("anon 300\nfile 50\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert container_memory(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) is None
    assert container_memory(tmp_path / "absent") is None
    free = free_memory()
    assert free is None or free > 2**20
