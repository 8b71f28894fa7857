"""Engines for tests: recorded in this process, with one cache for the whole run: equal programs are made once."""

import os
from pathlib import Path
from typing import Any

from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.loading.engine import EngineLoader, EngineOptions
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.runtime.cache import ProgramCache

CACHE = ProgramCache(Path(os.environ["TEST_PROGRAMS"]))


def loader(directory: Path, **options: Any) -> EngineLoader:
    """`options` as EngineOptions has them; on one chip unless they say otherwise."""
    return EngineLoader(directory, EngineOptions(**{"chips": 1, **options}), CACHE, lowering=LoweringHere())


def engine(directory: Path, **options: Any) -> StaticBatchEngine:
    """A warm engine."""
    loaded = loader(directory, **options).load()
    loaded.warm_up(lambda _: None)
    return loaded
