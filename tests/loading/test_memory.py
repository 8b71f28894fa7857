"""A batch that does not fit is refused before a weight is read, with numbers that fit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support import engines
from support.checkpoints import save
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.errors import InvalidSettingError
from text_generation_server.loading import engine as loading
from text_generation_server.model.checkpoint import Checkpoint
from text_generation_server.model.memory import LONGEST, PROGRAMS_GUESS, MemoryNeed
from text_generation_server.runtime.host_memory import container_memory, free_memory, host_memory
from text_generation_server.runtime.mesh import DeviceMesh

SIZES = st.integers(0, 10**10)


@st.composite
def needs(draw: st.DrawFn) -> MemoryNeed:
    position = draw(st.integers(1, 10**6))
    return MemoryNeed(
        weights=draw(SIZES),
        position=position,
        slot=draw(st.integers(0, 10**6)),
        programs=draw(st.none() | SIZES),
        sliding=draw(st.integers(0, position)),
        ring=draw(st.integers(2, 10**4)),
    )


NEEDS = needs()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model"))


@given(NEEDS, st.integers(1, 10**11), st.integers(1, 1000), st.integers(2, 10**5))
def test_the_largest_numbers_fit_and_the_next_ones_do_not(
    need: MemoryNeed, memory: int, batch: int, length: int
) -> None:
    slots, tokens = need.largest_batch(memory, length), need.largest_length(memory, batch)
    assert not slots or need.fits(memory, slots, length)
    assert not need.fits(memory, slots + 1, length)
    assert not tokens or need.fits(memory, batch, tokens)
    assert tokens == LONGEST or not need.fits(memory, batch, max(2, tokens + 1))


@given(NEEDS, st.integers(1, 10**11), st.integers(1, 1000), st.integers(2, 10**5))
def test_a_refusal_names_numbers_that_fit(need: MemoryNeed, memory: int, batch: int, length: int) -> None:
    assume(not need.fits(memory, batch, length))
    _, advice = need.refusal(memory, batch, length).split(" for all of it: ")
    for name, value in re.findall(r"(HF_\w+)=(\d+) with", advice):
        slots, tokens = (int(value), length) if name == "HF_BATCH_SIZE" else (batch, int(value))
        assert need.fits(memory, slots, tokens)
    assert advice.endswith(" would fit")


@pytest.mark.parametrize("layout", CacheLayout)
def test_the_need_is_what_is_allocated(directory: Path, layout: CacheLayout) -> None:
    loader = engines.loader(directory, batch_size=3, max_length=64, layout=layout, skip_warmup=True)
    need = loader.memory_need()
    state = loader.load()._state
    cache = [buffer for name, buffer in state.items() if name.startswith(("keys", "values"))]
    assert need.cache(3, 64) == sum(buffer.nbytes for buffer in cache)
    assert 3 * need.slot == state["counts"].nbytes


@contextmanager
def memory_of(monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[None]:
    """The device has so many bytes, and nobody may read a weight."""

    @contextmanager
    def refuse(_: Checkpoint) -> Iterator[Any]:
        pytest.fail("weights were read")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(DeviceMesh, "free_memory", lambda _: size)
        patch.setattr(Checkpoint, "opened", refuse)
        yield


def test_a_batch_that_does_not_fit_is_refused_before_a_program_is_made_or_a_weight_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = engines.loader(directory, batch_size=1000, max_length=64)
    need = loader.memory_need()
    monkeypatch.setattr(loading, "Compiler", lambda *_: pytest.fail("a compiler was made"))
    memory = round(need.total(4, 64) / (1 - PROGRAMS_GUESS)) + 1
    with memory_of(monkeypatch, memory), pytest.raises(InvalidSettingError) as refusal:
        loader.load()
    message = str(refusal.value)
    assert message.startswith("HF_BATCH_SIZE=1000 and HF_SEQUENCE_LENGTH=64 need ")
    assert ": HF_BATCH_SIZE=4 with this length would fit" in message


def test_what_does_not_fit_beside_the_compiled_programs_is_refused_before_a_weight_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = engines.loader(directory, batch_size=40, max_length=64)
    # Enough as long as the programs are a guess, and not with what they really take.
    size = round(loader.memory_need().total(40, 64) / (1 - PROGRAMS_GUESS)) + 1
    monkeypatch.setattr(loading, "program_bytes", lambda _: size // 4)
    with memory_of(monkeypatch, size), pytest.raises(InvalidSettingError) as refusal:
        loader.load()
    message = str(refusal.value)
    assert re.search(r"and 0\.\d\d GiB for programs and their intermediate results", message)
    (batch,) = re.findall(r"HF_BATCH_SIZE=(\d+) with this length", message)
    assert 1 <= int(batch) < 40


def test_an_allocation_that_fails_is_explained_with_the_devices_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    loader = engines.loader(directory, batch_size=2, max_length=64, skip_warmup=True)
    monkeypatch.setattr(DeviceMesh, "free_memory", lambda _: None)
    monkeypatch.setattr(DeviceMesh, "zeros", fail)
    with pytest.raises(InvalidSettingError) as refusal:
        loader.load()
    message = str(refusal.value)
    assert "does not fit in the memory of the device: lower one of the two numbers" in message
    assert message.endswith(": RESOURCE_EXHAUSTED: out of memory more")


def test_an_accelerator_gets_the_largest_batch_that_fits_beside_its_programs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = engines.loader(directory, max_length=64, dtype="float32", skip_warmup=False)
    monkeypatch.setattr(DeviceMesh, "is_cpu", property(lambda _: False))
    need = loader.memory_need()
    size = round(need.total(9, 64) / (1 - PROGRAMS_GUESS)) + 1
    # The guess leaves room for 9 slots. What programs really take is more than that, and less than all.
    monkeypatch.setattr(loading, "program_bytes", lambda _: size // 4)
    monkeypatch.setattr(DeviceMesh, "free_memory", lambda _: size)
    engine = loader.load()
    slots = engine.info.batch_size
    really = need.with_programs(size // 4)
    assert 1 <= slots < 9
    assert really.fits(size, slots, 64)
    assert not really.fits(size, slots + 1, 64)


def test_small_models_on_accelerators_take_several_steps_without_the_host_unless_told_otherwise(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engines.loader(directory).shape(1, 64).steps == 0
    assert engines.loader(directory, steps=4).shape(1, 64).steps == 4
    monkeypatch.setattr(DeviceMesh, "is_cpu", property(lambda _: False))
    loader = engines.loader(directory)
    assert loader.shape(1, 64).steps == 16
    assert engines.loader(directory, steps=0).shape(1, 64).steps == 0
    monkeypatch.setattr(loading, "LOOPED_WEIGHTS", loader.memory_need().weights - 1)
    assert loader.shape(1, 64).steps == 0


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
