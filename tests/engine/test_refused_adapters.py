"""An adapter that does not fit, or is more than plain LoRA, is refused at the start with the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support import engines
from support.checkpoints import save
from support.lora_adapters import save_adapter
from text_generation_server.errors import InvalidSettingError
from text_generation_server.loading.engine import EngineLoader
from text_generation_server.model.adapters.reading import read_adapter
from text_generation_server.model.adapters.stacking import LayerStack, check_fit, stack_adapters

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> EngineLoader:
    return engines.loader(checkpoint, batch_size=1, max_length=64)


@pytest.fixture(scope="module")
def original(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(checkpoint, tmp_path_factory.mktemp("adapter"), 0, r=4, target_modules=["q_proj"])


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return copytree(original, tmp_path / "adapter")


def stack(loaded: EngineLoader, directory: Path, dtype: str = "float32") -> dict[str, LayerStack]:
    adapters = [read_adapter("sql", directory)]
    check_fit(loaded.description, loaded.checkpoint, adapters, dtype)
    return stack_adapters(adapters, dtype)


def refused(loaded: EngineLoader, directory: Path, message: str, dtype: str = "float32") -> None:
    with pytest.raises(InvalidSettingError) as refusal:
        stack(loaded, directory, dtype)
    text = str(refusal.value)
    assert text.startswith("LORA_ADAPTERS: adapter sql cannot be served: ")
    assert re.search(message, text), text


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_what_is_refused_below_would_be_served_unspoilt(loaded: EngineLoader, adapter: Path) -> None:
    stacks = stack(loaded, adapter)
    assert list(stacks) == [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type is 'IA3'\. Only 'LORA'"),
        ({"task_type": "SEQ_CLS"}, r"task_type is 'SEQ_CLS'\. Only 'CAUSAL_LM'"),
        ({"bias": "all"}, r"bias is 'all'\. Only 'none'"),
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\], which is not supported"),
        ({"trainable_token_indices": [5]}, r"trainable_token_indices is \[5\]"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"target_parameters": ["experts"]}, r"target_parameters is \['experts'\]"),
        ({"alora_invocation_tokens": [7]}, r"alora_invocation_tokens is \[7\]"),
        ({"a_later_feature": {"on": True}}, "a_later_feature is .* not supported"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa'.*path_initial_model_for_weight_conversion",
        ),
        ({"lora_alpha": None}, r"lora_alpha .* must .* numbers.*Given: \[None\]"),
        ({"alpha_pattern": {"q(": 8}}, r"alpha_pattern has 'q\(', which is no regular expression"),
        ({"alpha_pattern": {"q_proj": "8"}}, r"alpha_pattern must have numbers.*Given: \[8, '8'\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_asks_for_more_than_plain_lora_is_refused_by_its_entry(
    loaded: EngineLoader, adapter: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(adapter, **changes)
    refused(loaded, adapter, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{PREFIX}.lora_B.weight"), r"layers\.0\.self_attn\.q_proj has only lora_A"),
        (
            lambda t: t.update({f"{PREFIX}.lora_A.weight": torch.ones(4, 32)}),
            "maps 64 values to 64, and the .* 32",
        ),
        (
            lambda t: t.update({f"{PREFIX}.lora_B.weight": torch.ones(64, 3)}),
            r"\[4, 64\] .* \[64, 3\] .* do not fit",
        ),
        (lambda t: t[f"{PREFIX}.lora_A.weight"].fill_(torch.nan), "values that are infinite or NaN"),
        (
            lambda t: t.update({f"{PREFIX}.lora_magnitude_vector": torch.ones(64)}),
            "lora_magnitude_vector is no half",
        ),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.ones(160, 64)}),
            "embed_tokens.weight of its own, which differs from the model's",
        ),
        (lambda t: t.clear(), "holds no low-rank updates"),
    ],
    ids=["half", "shape", "rank", "nan", "dora", "embedding", "empty"],
)
def test_tensors_that_are_no_low_rank_update_of_the_model_are_refused_by_name(
    loaded: EngineLoader, adapter: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_tensors(adapter, change)
    refused(loaded, adapter, message)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("model.layers.2.self_attn.q_proj", r"LlamaForCausalLM has no model\.layers\.2\.self_attn\.q_proj"),
        ("model.embed_tokens", "model.embed_tokens is of type Embedding, not a linear layer"),
    ],
)
def test_a_layer_that_the_model_does_not_have_or_that_is_not_linear_is_refused(
    loaded: EngineLoader, adapter: Path, module: str, message: str
) -> None:
    def move(tensors: dict[str, Tensor]) -> None:
        for half in "AB":
            tensors[f"base_model.model.{module}.lora_{half}.weight"] = tensors.pop(
                f"{PREFIX}.lora_{half}.weight"
            )

    edit_tensors(adapter, move)
    refused(loaded, adapter, message)


def test_values_beyond_the_range_of_the_dtype_are_refused(loaded: EngineLoader, adapter: Path) -> None:
    edit_tensors(adapter, lambda tensors: tensors[f"{PREFIX}.lora_B.weight"].fill_(1e5))
    refused(loaded, adapter, r"beyond the range of float16\. Use --dtype bfloat16", "float16")
    stack(loaded, adapter, "bfloat16")


def test_a_pickle_is_refused_with_what_to_do(loaded: EngineLoader, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(loaded, adapter, "pickles are not read.*safe_serialization=True")


def test_missing_and_damaged_files_are_named(loaded: EngineLoader, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"short")
    refused(loaded, adapter, r"adapter_model\.safetensors cannot be read")
    (adapter / "adapter_model.safetensors").unlink()
    refused(loaded, adapter, r"has no adapter_model\.safetensors: give a directory that PEFT")
    (adapter / "adapter_model.safetensors").touch()
    (adapter / "adapter_config.json").write_text("[]")
    refused(loaded, adapter, r"adapter_config\.json cannot be read: it is not an object")
    (adapter / "adapter_config.json").unlink()
    refused(loaded, adapter, r"has no adapter_config\.json")


def test_what_only_training_reads_is_accepted(loaded: EngineLoader, adapter: Path) -> None:
    edit_config(adapter, lora_dropout=0.1, init_lora_weights="gaussian", layers_to_transform=[0, 1])
    stack(loaded, adapter)
