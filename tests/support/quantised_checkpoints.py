"""What transformers answers from weights that lost bits: checkpoints in which that is done by plain arithmetic."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D


def int8_and_back(weight: Tensor) -> Tensor:
    """[outputs, inputs], each row by its largest value."""
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(weight / scales) * scales


def fp8_and_back(weight: Tensor) -> Tensor:
    scales = weight.abs().amax(dim=1, keepdim=True) / 448
    return (weight / scales).to(torch.float8_e4m3fn).to(weight.dtype) * scales


MADE = {"int8": int8_and_back, "fp8": fp8_and_back}


def linear_layers(model: Any) -> dict[str, Any]:
    """All but the head, by name."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head
    }


def dequantised(checkpoint: Path, directory: Path, quantize: str) -> Path:
    """The checkpoint after its linear layers were made --quantize and numbers again."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for layer in linear_layers(model).values():
        weight = layer.weight.data
        outputs_first = isinstance(layer, torch.nn.Linear)
        made = MADE[quantize](weight if outputs_first else weight.T)
        layer.weight.data = (made if outputs_first else made.T).contiguous()
    model.save_pretrained(directory)
    return directory
