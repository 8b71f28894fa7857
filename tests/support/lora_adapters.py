"""Random adapters in PEFT's own files, and PEFT itself as the oracle of what they answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def save_adapter(checkpoint: Path, directory: Path, seed: int, **config: Any) -> Path:
    """Writes an adapter whose values are far from zero, as PEFT writes it.

    Args:
        config: fields of PEFT's LoraConfig.
    """
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(directory)
    return directory


@dataclass(frozen=True)
class Oracle:
    """A checkpoint in transformers, and with each of its adapters in PEFT."""

    checkpoint: Path
    adapters: dict[str, Path]

    def model(self, adapter: str | None) -> Any:
        base = AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32)
        if adapter is None:
            return base
        return PeftModel.from_pretrained(base, self.adapters[adapter]).eval()

    def logprobs(self, adapter: str | None, ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]: of the token after each of `ids`."""
        with torch.no_grad():
            logits = self.model(adapter)(torch.tensor([ids])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)
