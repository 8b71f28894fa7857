"""What transformers' own `generate` answers with the same model, eager on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Greedy:
    """The greedy continuation of a prompt."""

    text: str
    token_ids: list[int]
    logprobs: list[float]


class Oracle:
    """Answers are kept, because several tests ask the same."""

    def __init__(self, model_directory: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_directory)
        self._model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
        self._answers: dict[tuple[str, int], Greedy] = {}

    def greedy(self, prompt: str, max_new_tokens: int) -> Greedy:
        key = (prompt, max_new_tokens)
        if key not in self._answers:
            self._answers[key] = self._generate(prompt, max_new_tokens)
        return self._answers[key]

    def chat_prompt(self, *messages: dict[str, str]) -> str:
        prompt: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return prompt

    def _generate(self, prompt: str, max_new_tokens: int) -> Greedy:
        encoded = self.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            outcome = self._model.generate(
                **encoded,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                output_logits=True,
                return_dict_in_generate=True,
            )
        token_ids = outcome.sequences[0, encoded["input_ids"].shape[1] :].tolist()
        logprobs = [
            float(torch.log_softmax(logits[0].float(), dim=-1)[token_id])
            for token_id, logits in zip(token_ids, outcome.logits, strict=True)
        ]
        return Greedy(self.tokenizer.decode(token_ids, skip_special_tokens=True), token_ids, logprobs)
