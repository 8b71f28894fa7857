"""A KV cache in one byte for a number gives what transformers gives of keys and values that are rounded so."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import save
from support.driver import Driver, Run
from support.rounding import follow_rounded
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.contract import Prefix
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.loading.engine import EngineLoader
from tpu_tgi.parameters.model import Checkpoint

LENGTH = 160
CHUNK = 32


@dataclass(frozen=True)
class Kind:
    """A kind of attention and of cache. On four chips the slots are split, since the models have two key heads; in
    lanes two slots share a row, of which four key heads fill half a tile."""

    model_type: str
    dtype: CacheDtype
    layout: CacheLayout = CacheLayout.HEADS
    chips: int = 1
    drafts: int = 0

    def __str__(self) -> str:
        return f"{self.model_type}-{self.dtype}-{self.layout.value}-{self.chips}"


KINDS = [
    Kind("llama", CacheDtype.FP8_E4M3FN),
    # With rings, and scores of looking nowhere.
    Kind("gpt_oss", CacheDtype.INT8, CacheLayout.LANES, drafts=3),
    # It computes attention by itself.
    Kind("gpt_neo", CacheDtype.INT8),
    Kind("gemma3_text", CacheDtype.INT8, chips=4),
    Kind("llama", CacheDtype.INT8, chips=2),
]


@dataclass(frozen=True)
class Loaded:
    """An engine of a kind, and the same model in transformers."""

    kind: Kind
    loader: EngineLoader
    engine: StaticBatchEngine
    reference: Any

    def assert_follows(self, prompt: list[int], run: Run) -> None:
        expected = follow_rounded(self.reference, prompt, run.tokens, self.kind.dtype)
        assert run.tokens == expected.tokens
        # Where a number lies between two, the last bit of a sum decides between them.
        assert run.logprobs == pytest.approx(expected.logprobs, abs=0.03)


@pytest.fixture(scope="module", params=KINDS, ids=str)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    kind: Kind = request.param
    directory = save(
        kind.model_type,
        tmp_path_factory.mktemp("model"),
        max_position_embeddings=LENGTH,
        vocab_size=160,
        num_key_value_heads=4 if kind.layout is CacheLayout.LANES else 2,
    )
    loader = engines.loader(
        directory,
        batch_size=4,
        max_length=LENGTH,
        prefill_chunk=CHUNK,
        layout=kind.layout,
        chips=kind.chips,
        speculate=kind.drafts,
        cache_dtype=kind.dtype,
        skip_warmup=True,
    )
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return Loaded(kind, loader, loader.load(), reference)


def prompts(lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(3)
    return [chance.choices(range(3, 160), k=length) for length in lengths]


def test_tokens_are_those_of_rounded_keys_and_values_also_behind_a_prefix_and_drafts(loaded: Loaded) -> None:
    driver = Driver(loaded.engine)
    asked = prompts([1, 95, LENGTH - 30, 40])
    runs = [driver.join(slot, prompt) for slot, prompt in enumerate(asked)]
    driver.step(20)
    for run, prompt in zip(runs, asked, strict=True):
        loaded.assert_follows(prompt, run)
    driver.leave(0)
    longer = [*asked[3], *prompts([5])[0]]
    again = driver.join(0, longer, prefix=Prefix(3, 37))
    driver.step(5)
    loaded.assert_follows(longer, again)
    if loaded.kind.drafts:
        before = len(again.tokens)
        for drafts in ([5, 6, 7], [8], [9, 10]):
            # The first is right.
            known = follow_rounded(loaded.reference, longer, [*again.tokens, 0], loaded.kind.dtype).tokens
            again.take(loaded.engine.verify({0: [known[-1], *drafts[1:]]}).read())
        assert len(again.tokens) >= before + 6
        loaded.assert_follows(longer, again)


def test_the_need_counts_the_bytes_that_are_allocated(loaded: Loaded) -> None:
    names = ("keys.", "values.", "key_scales.", "value_scales.")
    cache = [held for name, held in loaded.engine._state.items() if name.startswith(names)]
    allocated = sum(held.nbytes for held in cache) // loaded.kind.chips
    assert loaded.loader.memory_need().cache(4, LENGTH) == allocated
    assert len(cache) == (8 if loaded.kind.dtype is CacheDtype.INT8 else 4)
    parts = {shard.data.nbytes * loaded.kind.chips for held in cache for shard in held.addressable_shards}
    assert parts == {held.nbytes for held in cache}


def test_of_half_the_bytes_nearly_twice_the_slots_fit_and_a_dry_run_says_so(tmp_path: Path) -> None:
    directory = save("llama", tmp_path, head_dim=128, num_hidden_layers=1)
    options = {"batch_size": 1, "max_length": LENGTH, "dtype": "bfloat16", "skip_warmup": True}
    plain, fp8, int8 = (
        engines.loader(directory, cache_dtype=dtype, **options).memory_need()
        for dtype in (None, CacheDtype.FP8_E4M3FN, CacheDtype.INT8)
    )
    assert (fp8.position, int8.position) == (plain.position // 2, plain.position * 130 // 256)
    checkpoint = Checkpoint.find(str(directory), None, {})
    assert checkpoint is not None
    for dtype, loaded in ((CacheDtype.FP8_E4M3FN, fp8), (CacheDtype.INT8, int8)):
        need = checkpoint.need("bfloat16", CacheLayout.LANES, cache_dtype=dtype)
        assert need is not None
        assert need.position == loaded.position
    memory = plain.total(100, 4096) * 2
    assert fp8.largest_batch(memory, 4096) >= 1.95 * plain.largest_batch(memory, 4096)
    assert int8.largest_batch(memory, 4096) >= 1.9 * plain.largest_batch(memory, 4096)


@pytest.mark.parametrize("dtype", [None, CacheDtype.FP8_E4M3FN, CacheDtype.INT8])
@pytest.mark.parametrize("slots", [2, 3])
def test_a_dry_run_counts_slots_that_share_lanes_in_pairs_as_the_engine_does(
    slots: int, dtype: CacheDtype | None, tmp_path: Path
) -> None:
    directory = save("llama", tmp_path, hidden_size=192, num_attention_heads=3, num_key_value_heads=3)
    loader = engines.loader(
        directory,
        batch_size=slots,
        max_length=LENGTH,
        dtype="bfloat16",
        cache_dtype=dtype,
        layout=CacheLayout.LANES,
        skip_warmup=True,
    )
    checkpoint = Checkpoint.find(str(directory), None, {})
    assert checkpoint is not None
    need = checkpoint.need("bfloat16", CacheLayout.LANES, cache_dtype=dtype, pairs=slots % 2 == 0)
    assert need is not None
    assert need.position == loader.memory_need().position


@pytest.mark.parametrize("dtype", [CacheDtype.FP8_E4M3FN, CacheDtype.FP8_E5M2])
def test_fp8_rounds_as_torch_does_and_what_is_too_large_becomes_the_largest(dtype: CacheDtype) -> None:
    import jax.numpy as jnp

    from support.rounding import rounded
    from text_generation_server.runtime.kernels import as_kept

    numbers = torch.randn(2000, generator=torch.Generator().manual_seed(1)) * 10 ** torch.linspace(
        -6, 6, 2000
    )
    kept = as_kept(jnp.array(numbers.numpy()), jnp.dtype(dtype.on_device)).astype(jnp.float32)
    assert torch.from_numpy(np.array(kept)).equal(rounded(numbers, dtype))
