"""`text-generation-server` as it is, except that the loaded model spells: see `spelling_model`.

While there is more than one request, a step takes STEP_SECONDS, from the environment, so that requests meet. The
warm-up takes WARMUP_SECONDS.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.contract import WarmupProgress
from text_generation_server.engine.fake import FakeEngine, FakeStartedStep
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.text.tokenizer import ModelTokenizer


@dataclass(frozen=True)
class LoadedEngine:
    engine: FakeEngine
    tokenizer: ModelTokenizer
    eos_token_ids: frozenset[int]


class SteadyEngine(FakeEngine):
    """A fake engine whose steps take a time."""

    seconds = float(os.environ.get("STEP_SECONDS", "0"))

    def warm_up(self, progress: Callable[[WarmupProgress], None]) -> None:
        time.sleep(float(os.environ.get("WARMUP_SECONDS", "0")))
        super().warm_up(progress)

    def start_step(self) -> FakeStartedStep:
        if len(self.live_slots) > 1:
            time.sleep(self.seconds)
        return super().start_step()


@dataclass(frozen=True)
class EngineOptions:
    """The fields of the real one."""

    batch_size: int | None
    max_length: int | None
    dtype: str | None
    quantize: str | None
    scores_prompts: bool
    strength: WatermarkStrength
    adapters: Sequence[tuple[str, Path]]
    skip_warmup: bool
    hang_seconds: float
    chips: int | None
    prefill_chunk: int | None
    cache_dtype: CacheDtype | None
    speculate: int
    steps: int | None


def load_engine(model_directory: Path, options: EngineOptions, compile_cache: Path | None) -> LoadedEngine:
    # Not earlier, since transformers and huggingface_hub read the environment when they are imported.
    from wire.spelling_model import eos_id, next_letter, spelling_tokenizer

    if (model_directory / "UNSUPPORTED").exists():
        raise UnsupportedModelError("model type 'odd' is not supported. Supported: spelling.")
    if (model_directory / "CRASH").exists():
        raise ZeroDivisionError("a defect in the loader")
    engine = SteadyEngine(
        next_token=next_letter,
        batch_size=options.batch_size or 4,
        max_length=options.max_length or 128,
        vocab_size=len(spelling_tokenizer()),
        scores_prompts=options.scores_prompts,
        adapters=tuple(name for name, _ in options.adapters),
        drafts=options.speculate,
        steps=options.steps or 0,
    )
    return LoadedEngine(engine, ModelTokenizer.from_transformers(spelling_tokenizer()), frozenset({eos_id()}))


if __name__ == "__main__":
    loader = ModuleType("text_generation_server.loading.engine")
    loader.load_engine = load_engine  # type: ignore[attr-defined]
    loader.EngineOptions = EngineOptions  # type: ignore[attr-defined]
    sys.modules[loader.__name__] = loader

    from text_generation_server.cli import app

    app(prog_name="text-generation-server")
