"""What transformers' own `generate` answers with the same model, eager on the CPU."""

from collections.abc import Sequence
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
    """The greedy answers to some prompts, all of them generated in one batch, as long as TOKENS or less."""

    TOKENS = 16

    def __init__(self, model_directory: Path, prompts: Sequence[str], questions: Sequence[str]) -> None:
        """`questions` are asked through the chat template."""
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_directory, padding_side="left")
        everything = [*prompts, *map(self.chat_prompt, questions)]
        self._answers = dict(zip(everything, self._generate(model_directory, everything), strict=True))

    def greedy(self, prompt: str, max_new_tokens: int = TOKENS) -> Greedy:
        answer = self._answers[prompt]
        token_ids = answer.token_ids[:max_new_tokens]
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return Greedy(text, token_ids, answer.logprobs[:max_new_tokens])

    def chat_prompt(self, question: str) -> str:
        prompt: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return prompt

    def _generate(self, model_directory: Path, prompts: list[str]) -> list[Greedy]:
        model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
        encoded = self.tokenizer(prompts, padding=True, return_tensors="pt")
        with torch.no_grad():
            outcome = model.generate(
                **encoded,
                do_sample=False,
                max_new_tokens=self.TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
        generated = outcome.sequences[:, encoded["input_ids"].shape[1] :]
        logprobs = torch.log_softmax(torch.stack(outcome.logits, dim=1).float(), dim=-1)
        chosen = logprobs.gather(-1, generated.unsqueeze(-1)).squeeze(-1)
        return [self._answer(*row) for row in zip(generated.tolist(), chosen.tolist(), strict=True)]

    def _answer(self, token_ids: list[int], logprobs: list[float]) -> Greedy:
        """Without the padding of an answer that ended before others did."""
        eos = self.tokenizer.eos_token_id
        length = token_ids.index(eos) + 1 if eos in token_ids else len(token_ids)
        text = self.tokenizer.decode(token_ids[:length], skip_special_tokens=True)
        return Greedy(text, token_ids[:length], logprobs[:length])
