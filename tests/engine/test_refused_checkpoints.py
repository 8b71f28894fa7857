"""A checkpoint that cannot be served is refused with words that say what would work."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import engines
from support.checkpoints import save
from support.driver import Driver
from support.small_tokenizers import byte_level
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.hub import model_directory
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.model.architectures import SUPPORTED_MODEL_TYPES
from text_generation_server.model.configuration import load_config, load_tokenizer

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "heads that do not divide": (
        {"num_attention_heads": 3},
        r"hidden size \(64\) is not a multiple .* \(3\)",
    ),
    "shared heads that do not divide": (
        {"num_key_value_heads": 3},
        "num_attention_heads = 4 is not a multiple of num_key_value_heads = 3",
    ),
    "a vocabulary larger than the embedding": (
        {"vocab_size": 500},
        r"has the shape \[160, 64\].* needs \[500, 64\]",
    ),
    "a rope without its factor": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}},
        "Missing required keys .*factor",
    ),
    "more layers than weights": ({"num_hidden_layers": 3}, r"9 tensors are missing.*layers\.2\."),
    "a word for a number": ({"num_hidden_layers": "two"}, "num_hidden_layers.* expected int"),
    "no number of positions": ({"max_position_embeddings": None}, "max_position_embeddings.* expected int"),
    "an activation that nobody knows": ({"hidden_act": "nothing"}, "makes no model: KeyError: 'nothing'"),
    "a negative size": ({"hidden_size": -4}, "negative dimension -4"),
    "a dtype that nobody knows": ({"dtype": "float99"}, "float99"),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save("llama", tmp_path)


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no config\.json"):
        load_config(tmp_path)


def test_an_architecture_that_is_not_claimed_is_refused_with_the_list_of_what_works(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type="mamba", architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="'mamba' is not supported") as caught:
        load_config(checkpoint)
    assert all(model_type in str(caught.value) for model_type in SUPPORTED_MODEL_TYPES)


def test_an_architecture_that_nobody_knows_is_refused_with_the_list_of_what_works(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type="no_such_model")
    with pytest.raises(UnsupportedModelError, match="llama"):
        load_config(checkpoint)


def test_a_classifier_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UnsupportedModelError, match="LlamaForSequenceClassification does not generate text"):
        load_config(checkpoint)


def test_a_rotary_embedding_of_another_type_is_refused_with_the_list(checkpoint: Path) -> None:
    edit_config(checkpoint, rope_parameters={"rope_type": "proportional", "rope_theta": 10000.0})
    with pytest.raises(
        UnsupportedModelError, match=r"'proportional' is not supported. Supported: .*longrope"
    ):
        load_config(checkpoint)


def test_layers_that_change_at_different_lengths_are_refused(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    long = {
        **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24},
        **{"short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    }
    save("gemma3_text", tmp_path, rope_parameters={"sliding_attention": dynamic, "full_attention": long})
    with pytest.raises(UnsupportedModelError, match="must change at the same length"):
        engines.loader(tmp_path, batch_size=1)


def test_a_sequence_length_beyond_the_models_positions_is_refused(checkpoint: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"HF_SEQUENCE_LENGTH .* is 129.*the model goes as far as 128"
    ):
        engines.loader(checkpoint, batch_size=1, max_length=129).load()


def test_without_a_sequence_length_the_models_own_limit_is_used(checkpoint: Path) -> None:
    engine = engines.loader(checkpoint, batch_size=1, skip_warmup=True).load()
    assert engine.info.max_length == 128


def test_missing_weights_are_refused_and_not_drawn_at_random(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"missing.*model\.layers\.1\.mlp\.up_proj\.weight"):
        engines.loader(checkpoint, batch_size=1, max_length=64).load()


def test_weights_of_other_shapes_than_the_config_says_are_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, intermediate_size=128)
    with pytest.raises(
        UnsupportedModelError, match=r"do not fit config\.json: .*mlp.* shape \[.*96.*\], .* needs \[.*128"
    ):
        engines.loader(checkpoint, batch_size=1, max_length=64).load()


def test_a_damaged_weights_file_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        engines.loader(checkpoint, batch_size=1, max_length=64).load()


def test_weights_that_the_model_has_no_place_for_are_refused_by_name(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.bias"] = weights["model.norm.weight"].clone()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UnsupportedModelError, match=r"no place for 1 of them.*model\.layers\.1\.mlp\.up_proj\.bias"
    ):
        engines.loader(checkpoint, batch_size=1, max_length=64)


def test_a_checkpoint_without_a_fast_tokenizer_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        load_tokenizer(checkpoint)


@pytest.mark.parametrize("lie", LIES)
def test_a_config_that_contradicts_itself_or_its_weights_is_refused_in_one_line(
    lie: str, checkpoint: Path
) -> None:
    changes, message = LIES[lie]
    edit_config(checkpoint, **changes)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        engines.loader(checkpoint, batch_size=1, max_length=64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "lie"), [("mpt", {"n_heads": 3}), ("gpt_neox_japanese", {"num_attention_heads": 3})]
)
def test_sizes_that_transformers_does_not_check_are_refused_when_the_model_is_first_called(
    model_type: str, lie: dict[str, Any], tmp_path: Path
) -> None:
    save(model_type, tmp_path)
    edit_config(tmp_path, **lie)
    with pytest.raises(UnsupportedModelError, match=r"config\.json contradicts itself: .*cannot be called"):
        engines.loader(tmp_path, batch_size=1, max_length=64)


@pytest.mark.parametrize("lie", ["heads that do not divide", "a rope without its factor"])
def test_a_lie_of_the_config_is_not_laid_at_the_door_of_the_tokenizer(lie: str, checkpoint: Path) -> None:
    byte_level().save_pretrained(checkpoint)
    edit_config(checkpoint, **LIES[lie][0])
    with pytest.raises(UnsupportedModelError, match=r"^config\.json in "):
        LoweringHere().read_text(checkpoint)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba2", "keeps a state"),
        ("t5", "has an encoder beside its decoder"),
        ("bert", "looks at a text from both sides"),
        ("gemma3n", "shares keys and values between layers"),
    ],
)
def test_a_kind_of_model_that_cannot_be_served_is_refused_with_the_reason(
    model_type: str, reason: str, checkpoint: Path
) -> None:
    edit_config(checkpoint, model_type=model_type)
    with pytest.raises(
        UnsupportedModelError, match=f"'{model_type}' is not supported: it {reason}"
    ) as caught:
        load_config(checkpoint)
    assert "Supported: apertus" in str(caught.value)


def test_float64_weights_are_read(checkpoint: Path) -> None:
    expected = engines.loader(checkpoint, batch_size=1, max_length=64, skip_warmup=True).load()
    weights = {name: tensor.double() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    engine = engines.loader(checkpoint, batch_size=1, max_length=64, skip_warmup=True).load()
    prompt = [5, 9, 33]
    assert Driver(engine).join(0, prompt) == Driver(expected).join(0, prompt)


def test_weights_as_pickles_are_refused_with_a_command_that_converts_them(
    checkpoint: Path,
) -> None:
    byte_level().save_pretrained(checkpoint)
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="pickles are not read") as caught:
        model_directory(str(checkpoint), None, {})
    (command,) = re.findall('python -c "(.*)"', str(caught.value))
    exec(command, {})
    assert model_directory(str(checkpoint), None, {}) == checkpoint
    engines.loader(checkpoint, batch_size=1, max_length=64)
