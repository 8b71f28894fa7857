"""What the engine is compared with: transformers in eager torch, in a process of its own.

Of its own, because the threads of torch wait for work by spinning, and would take the cores from XLA's threads (and
the other way round). The parent gives the turns:

    python -m benchmarks.eager models/SmolLM2-135M-Instruct float32

reads one JSON object a line, {"work": "prefill" | "decode" | "generate", "times": n, "prompts": [[...]]}, and answers
each with a line of JSON: a list of n times in milliseconds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEW_TOKENS = 32
"""Of each prompt, in "generate"."""


class EagerProcess:
    """The parent's end."""

    def __init__(self, directory: Path, dtype: str) -> None:
        command = [sys.executable, "-m", "benchmarks.eager", str(directory), dtype]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def times(self, work: str, times: int, prompts: Sequence[list[int]] = ()) -> list[float]:
        """Does the work so many times; the milliseconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"work": work, "times": times, "prompts": prompts}),
            file=self._process.stdin,
            flush=True,
        )
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"eager torch ended with code {self._process.wait()}; its error stands above")
        milliseconds: list[float] = json.loads(answer)
        return milliseconds

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    # Imported here: the parent's end needs none of it.
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

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

    def run(work: str, ids: torch.Tensor) -> None:
        nonlocal cache
        if work == "prefill":
            cache = DynamicCache(config=model.config)
            forward(ids)
        elif work == "decode":
            forward(tokens)
        else:
            mask = torch.ones_like(ids)
            length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
            model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length)

    with torch.inference_mode():
        for line in sys.stdin:
            command = json.loads(line)
            ids = torch.tensor(command["prompts"])
            milliseconds = []
            for _ in range(command["times"]):
                started = time.perf_counter()
                run(command["work"], ids)
                milliseconds.append((time.perf_counter() - started) * 1e3)
            print(json.dumps(milliseconds), flush=True)


if __name__ == "__main__":
    main()
