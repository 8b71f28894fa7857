"""llama.cpp, for benchmarks.engine_speed; see `benchmarks.rival` for what it reads and answers.

    .venv-llama/bin/python -m benchmarks.llama build/SmolLM2-135M-Instruct.gguf 8 512

serves up to 8 prompts, with 512 positions each. It runs in the environment that `make llama` builds, which has
llama-cpp-python and numpy only. Keys and values are kept in float32, as the engine keeps them; all cores compute.
"""

import ctypes
import os
import sys
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.rival import serve

Tokens = list[tuple[int, int, int, bool]]
"""Of a batch: token, position, sequence, and whether its logits are wanted."""


class Llama:
    """A model with a cache of `rows` sequences."""

    def __init__(self, file: str, rows: int, length: int) -> None:
        # It logs every tensor otherwise.
        self._silent = llama_cpp.llama_log_callback(lambda level, text, user: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = rows * length, rows * length, length
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(rows * length, 0, 1)
        self._next: list[int] = []
        self._position = 0

    def run(self, work: str, prompts: list[list[int]]) -> None:
        """A prefill of whole prompts of one length into an empty cache, or a decode of one token each; and arg max."""
        if work == "prefill":
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
            self._position = len(prompts[0])
            last = self._position - 1
            self._forward(
                [
                    (token, place, row, place == last)
                    for row, prompt in enumerate(prompts)
                    for place, token in enumerate(prompt)
                ]
            )
        elif work == "decode":
            self._forward([(token, self._position, row, True) for row, token in enumerate(self._next)])
            self._position += 1
        else:
            raise ValueError(f"llama.cpp is not measured at {work}")

    def _forward(self, tokens: Tokens) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, position, row, is_last) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = is_last
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama.cpp: llama_decode returned {code}")
        self._next = [
            int(self._logits(place).argmax()) for place, (*_, is_last) in enumerate(tokens) if is_last
        ]

    def _logits(self, place: int) -> Any:
        pointer = llama_cpp.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, (self._vocabulary,))


def main() -> None:
    file, rows, length = sys.argv[1:]
    serve(Llama(file, int(rows), int(length)).run)


if __name__ == "__main__":
    main()
