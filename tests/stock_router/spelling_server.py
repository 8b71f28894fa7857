"""`text-generation-server` as it is, except that the loaded model spells: see `wire.spelling_model`.

A prompt that begins with FOREVER is continued by the alphabet over and over, one with BREAK breaks the engine.
While there is more than one request, a step takes STEP_SECONDS, from the environment.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from text_generation_server.engine.fake import FakeEngine, FakePendingTokens
from text_generation_server.errors import UnsupportedModelError

COMMAND = [sys.executable, "-m", "stock_router.spelling_server"]


@dataclass(frozen=True)
class LoadedEngine:
    engine: FakeEngine
    tokenizer: Any
    eos_token_ids: frozenset[int]


class SteadyEngine(FakeEngine):
    """A fake engine whose steps take a time, so that requests meet."""

    seconds = float(os.environ.get("STEP_SECONDS", "0"))

    def decode(self) -> FakePendingTokens:
        if len(self.live_slots) > 1:
            time.sleep(self.seconds)
        return super().decode()


def load_engine(
    model_directory: Path,
    *,
    batch_size: int,
    max_length: int | None,
    scores_prompts: bool,
    **only_for_a_model: object,
) -> LoadedEngine:
    # Not earlier, since transformers and huggingface_hub read the environment when they are imported.
    from wire.spelling_model import eos_id, spelling_tokenizer

    if (model_directory / "UNSUPPORTED").exists():
        raise UnsupportedModelError("model type 'odd' is not supported. Supported: spelling.")
    tokenizer = spelling_tokenizer()
    engine = SteadyEngine(
        next_token=Speller(tokenizer, eos_id()),
        batch_size=batch_size,
        max_length=max_length or 128,
        vocab_size=len(tokenizer),
        scores_prompts=scores_prompts,
    )
    return LoadedEngine(engine, tokenizer, frozenset({eos_id()}))


class Speller:
    """Looks at the ends of the text only: other than `wire.spelling_model`, it is quick on long ones."""

    def __init__(self, tokenizer: Any, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self._eos_id = eos_id

    def __call__(self, history: Sequence[int]) -> int:
        beginning = self._tokenizer.decode(history[:12], skip_special_tokens=True)
        if beginning.startswith("BREAK"):
            raise RuntimeError("the device is gone")
        last = self._tokenizer.decode(history[-1:], skip_special_tokens=True)
        if last == "z" and not beginning.startswith("FOREVER"):
            return self._eos_id
        letter = chr(ord(last) + 1) if "a" <= last < "z" else "a"
        return int(self._tokenizer.convert_tokens_to_ids(letter))


def write_checkpoint(directory: Path, *marks: str) -> Path:
    """What launcher and router read of a model, and `marks` for `load_engine`."""
    from wire.spelling_model import spelling_tokenizer

    directory.mkdir(parents=True, exist_ok=True)
    spelling_tokenizer().save_pretrained(directory)
    for name in ("config.json", "model.safetensors", *marks):
        (directory / name).write_text("{}")
    return directory


if __name__ == "__main__":
    loader = ModuleType("text_generation_server.engine.xla.load")
    loader.load_engine = load_engine  # type: ignore[attr-defined]
    sys.modules[loader.__name__] = loader

    from text_generation_server.cli import app

    app(prog_name="text-generation-server")
