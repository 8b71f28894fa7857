"""The shard, and how its parts are put together: settings -> files -> engine -> generator -> service."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from text_generation_server.batching.generator import Generator
from text_generation_server.engine.contract import Engine
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.hub import adapter_directory, ignore_hf_transfer, model_directory
from text_generation_server.settings import Settings

DISTRIBUTED_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The launcher sets these even for one shard, and libraries take them for a distributed run."""


@dataclass(frozen=True)
class Shard:
    """What both services work on.

    Attributes:
        skip_warmup: debugging only, see `Settings`.
        end_token_id: an id that may stand for the end of a text that is not the model's.
        max_input_tokens: the longest prompt, if the shard was told; a router that was told too overrides it.
        on_fatal: called once an RPC that failed for good was answered.
        lock: held by whoever calls the generator or the engine, except for `Engine.check_health`.
    """

    generator: Generator
    engine: Engine
    skip_warmup: bool
    end_token_id: int
    max_input_tokens: int | None
    socket_path: str
    on_fatal: Callable[[BaseException], None]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def warm_up(self) -> None:
        """Runs the programs that are new, unless that was done; a line in the log for each."""
        if self.skip_warmup:
            logger.warning("SKIP_WARMUP is set: programs will be compiled while requests wait for them")
            return
        started = time.monotonic()
        self.engine.warm_up(
            lambda step: logger.info(
                "First run {}/{}: {} in {:.1f} s", step.index, step.count, step.program, step.seconds
            )
        )
        logger.info("First runs took {:.1f} s", time.monotonic() - started)


def serve_until_stopped(settings: Settings) -> int:
    """Loads the model and serves it; returns the exit code once the server has stopped.

    Raises:
        InvalidSettingError, UnsupportedModelError: it cannot be served.
    """
    # Not at the top: the service's module needs this one.
    from text_generation_server.wire.server import ShardServer

    server = ShardServer(settings.socket_path)
    ignore_hf_transfer()
    for name in DISTRIBUTED_VARIABLES:
        os.environ.pop(name, None)
    directory = model_directory(settings.model_id, settings.revision, os.environ)
    adapters = [
        (adapter.name, adapter_directory(adapter.source, adapter.revision, os.environ))
        for adapter in settings.adapters
    ]
    shard = load_shard(settings, directory, adapters, server.fail)
    if settings.otlp_endpoint is None:
        return server.run(shard)
    from text_generation_server.tracing import traced_calls

    with traced_calls(settings.otlp_endpoint, settings.otlp_service_name) as interceptor:
        return server.run(shard, [interceptor])


def load_shard(
    settings: Settings,
    directory: Path,
    adapters: list[tuple[str, Path]],
    on_fatal: Callable[[BaseException], None],
) -> Shard:
    """The shard of a checkpoint that is here. Raises as `serve_until_stopped`."""
    # Not at the top: the fake engine of the tests stands in for this module, and nothing else needs JAX.
    from text_generation_server.loading.engine import EngineOptions, load_engine

    with remote_code_mentioned(directory):
        options = EngineOptions(
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            dtype=settings.dtype,
            scores_prompts=settings.prompt_logprobs,
            strength=settings.watermark,
            adapters=adapters,
            skip_warmup=settings.skip_warmup,
            hang_seconds=settings.hang_timeout,
        )
        loaded = load_engine(directory, options, settings.compile_cache)
    settings.check_max_input_tokens(loaded.engine.info.max_length)
    return Shard(
        generator=Generator(loaded.engine, loaded.tokenizer, loaded.eos_token_ids),
        engine=loaded.engine,
        skip_warmup=settings.skip_warmup,
        end_token_id=min(loaded.eos_token_ids, default=0),
        max_input_tokens=settings.max_input_tokens,
        socket_path=settings.socket_path,
        on_fatal=on_fatal,
    )


@contextmanager
def remote_code_mentioned(directory: Path) -> Iterator[None]:
    """Adds to the error of a model that is not supported that its own code would not be run either."""
    try:
        yield
    except UnsupportedModelError as error:
        if "auto_map" not in json.loads((directory / "config.json").read_text()):
            raise
        raise UnsupportedModelError(
            f"{str(error).rstrip('.')}. Its config.json names code of its own (auto_map), which this server "
            "never runs, with --trust-remote-code or without"
        ) from error
