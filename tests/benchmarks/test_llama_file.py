"""The GGUF file that llama.cpp is measured with."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks import llama_file
from support.checkpoints import save


def test_transformers_reads_the_same_weights_from_it(tmp_path: Path) -> None:
    """transformers undoes what llama.cpp wants of queries and keys, and knows where each tensor belongs."""
    directory = save("llama", tmp_path / "checkpoint")
    llama_file.write(directory, tmp_path / "model.gguf")
    expected = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    for name, tensor in read.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["model.gguf"]
