"""Which tokens end a text: what a checkpoint declares, in either place, and what its tokenizer has."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from support import small_tokenizers
from text_generation_server.model.configuration import eos_token_ids


@pytest.mark.parametrize(
    ("generation_config", "config", "declared"),
    [
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 5}, {7, 9}),
        ({"eos_token_id": 7}, {"eos_token_id": 5}, {7}),
        ({}, {"eos_token_id": 5}, set()),
        (None, {"eos_token_id": [5, 6]}, {5, 6}),
        (None, {"eos_token_id": None}, set()),
    ],
)
def test_every_declared_end_of_sequence_token_is_known(
    generation_config: dict[str, Any] | None, config: dict[str, Any], declared: set[int], tmp_path: Path
) -> None:
    if generation_config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
    tokenizer = small_tokenizers.byte_level()
    ids = eos_token_ids(tmp_path, AutoConfig.for_model("llama", **config), tokenizer)
    assert ids == declared | {tokenizer.eos_token_id}
