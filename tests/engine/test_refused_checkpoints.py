"""A checkpoint that cannot be served is refused with words that say what would work."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from support import engines
from support.checkpoints import save
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.architectures import SUPPORTED_MODEL_TYPES
from text_generation_server.model.configuration import load_config, load_tokenizer


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


def test_a_rotary_embedding_that_depends_on_the_batch_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(UnsupportedModelError, match="'dynamic' is not supported"):
        load_config(checkpoint)


def test_a_sequence_length_beyond_the_models_positions_is_refused(checkpoint: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"HF_SEQUENCE_LENGTH .* is 129.*max_position_embeddings = 128"
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
