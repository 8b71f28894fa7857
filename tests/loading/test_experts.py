"""Experts come from a checkpoint whichever way they lie in it: a tensor for each expert, or one for all."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import save
from support.discarding import discard_weights
from support.lora_adapters import save_adapter
from text_generation_server.errors import InvalidSettingError, UnsupportedModelError
from text_generation_server.loading.engine import EngineLoader
from text_generation_server.loading.weights import load_weights


def loaded(directory: Path, **options: Any) -> dict[str, NDArray[Any]]:
    """All weights as they lie on the device."""
    loader = engines.loader(directory, **options)
    return {name: np.asarray(buffer) for name, buffer in load(loader).items()}


def load(loader: EngineLoader) -> dict[str, Any]:
    return load_weights(loader.description, loader.checkpoint, loader.mesh, loader.sharding, loader.layers())


def stacked(checkpoint: Path, directory: Path) -> Path:
    """The same checkpoint with one tensor for all experts."""
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(directory, save_original_format=False)
    return directory


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"chips": 4}])
@pytest.mark.parametrize("recipe", ["mixtral", "qwen3_moe"])
def test_one_tensor_for_each_expert_and_one_for_all_give_the_same(
    recipe: str, options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = save(recipe, tmp_path / "each")
    every = loaded(stacked(checkpoint, tmp_path / "all"), **options)
    each = loaded(checkpoint, **options)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("each", "all")]
    assert len(files[0]) > len(files[1]), "the two lie differently"
    assert each.keys() == every.keys()
    for name, values in each.items():
        np.testing.assert_array_equal(values, every[name], err_msg=name)


def test_a_checkpoint_without_one_of_the_experts_is_refused(tmp_path: Path) -> None:
    file = save("mixtral", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    name = next(each for each in tensors if each.endswith("experts.2.w3.weight"))
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(
        UnsupportedModelError, match=r"1 tensors are missing, for example .*experts\.gate_up_proj"
    ):
        engines.loader(tmp_path)


def test_an_expert_of_another_shape_is_refused(tmp_path: Path) -> None:
    file = save("mixtral", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    name = next(each for each in tensors if each.endswith("experts.2.w3.weight"))
    tensors[name] = tensors[name][:-1].copy()
    save_file(tensors, file)
    with pytest.raises(
        UnsupportedModelError, match=r"experts\.2\.w3\.weight has the shape \[95, 64\], and .* \[96, 64\]"
    ):
        engines.loader(tmp_path)


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"chips": 2}])
def test_the_need_counts_the_bytes_of_all_experts(options: dict[str, Any], tmp_path: Path) -> None:
    loader = engines.loader(save("qwen2_moe", tmp_path), **options)
    weights = load(loader)
    parts = [buffer.addressable_shards[0].data.nbytes for buffer in weights.values()]
    assert loader.memory_need().weights == sum(parts)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_host_never_holds_more_than_two_tensors(
    quantize: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("mixtral", tmp_path, intermediate_size=1024, hidden_size=128, head_dim=32)
    loader = engines.loader(tmp_path, chips=4, dtype="bfloat16", quantize=quantize)
    largest = max(weight.nbytes for weight in loader.description.weights.values())
    discard_weights(monkeypatch)
    tracemalloc.start()
    load(loader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A tensor of the file is an expert's, in float32.
    assert peak < 2 * largest + 3 * 4 * 1024 * 128


@pytest.mark.parametrize("module", ["block_sparse_moe.experts.0.w1", "mlp.experts"])
def test_an_adapter_of_experts_is_refused_by_name(module: str, tmp_path: Path) -> None:
    adapter = save_adapter(
        save("mixtral", tmp_path / "model"), tmp_path / "one", 0, r=2, target_modules=["q_proj"]
    )
    file = adapter / "adapter_model.safetensors"
    save_file(
        {name.replace("self_attn.q_proj", module): each for name, each in load_file(file).items()}, file
    )
    with pytest.raises(
        InvalidSettingError, match=rf"LORA_ADAPTERS: adapter one .*layers\.0\.{module} are experts\. Train it"
    ):
        engines.loader(tmp_path / "model", adapters=[("one", adapter)])
