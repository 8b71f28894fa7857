"""Transformers in eager torch, for benchmarks.engine_speed; see `benchmarks.rival` for what it reads and answers.

python -m benchmarks.eager models/SmolLM2-135M-Instruct float32
"""

import os
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.rival import NEW_TOKENS, serve


def main() -> None:
    directory, dtype = sys.argv[1:]
    torch.set_num_threads(os.cpu_count() or 1)
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="sdpa", trust_remote_code=False
    ).eval()
    cache: Any = None
    tokens: Any = None

    def forward(ids: torch.Tensor) -> None:
        """Forward and arg max, as in `generate` but without what it adds: processors, stopping, bookkeeping."""
        nonlocal tokens
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
        tokens.tolist()

    def run(work: str, prompts: list[list[int]]) -> None:
        nonlocal cache
        if work == "prefill":
            cache = DynamicCache(config=model.config)
            forward(torch.tensor(prompts))
        elif work == "decode":
            forward(tokens)
        else:
            ids = torch.tensor(prompts)
            mask = torch.ones_like(ids)
            length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
            model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length)

    with torch.inference_mode():
        serve(run)


if __name__ == "__main__":
    main()
