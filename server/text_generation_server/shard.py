"""The shard: its parts, how they are put together, and how they end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import Generation
from text_generation_server.engine.contract import Engine, EngineInfo
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.hub import adapter_directory, ignore_hf_transfer, model_directory
from text_generation_server.model.checkpoint import raw_config
from text_generation_server.runtime.host_memory import return_freed_memory
from text_generation_server.settings import Settings
from text_generation_server.telemetry import log_progress, shortened

DISTRIBUTED_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Shard:
    """What the services of both wire versions work on.

    Attributes:
        info: of the engine.
        end_token_id: an id that may stand for the end of a text that is not the model's.
        max_input_tokens: the longest prompt, if the shard was told; a router that was told too overrides it.
        refusals: requests and calls that were refused since the start.
        ended: is told the last generation of each request, in the call that answers it.
        lock: held by whoever calls the generator or the engine, but for what is safe from any thread.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        engine: Engine,
        end_token_id: int,
        socket_path: str,
        on_fatal: Callable[[BaseException], None],
        skip_warmup: bool = False,
        max_input_tokens: int | None = None,
    ) -> None:
        """`on_fatal` is called once an RPC that failed for good was answered. `skip_warmup`: see `Settings`."""
        self.generator = generator
        self.engine = engine
        self.info: EngineInfo = engine.info
        self.end_token_id = end_token_id
        self.max_input_tokens = max_input_tokens
        self.socket_path = socket_path
        self.refusals = 0
        self.ended: Callable[[Generation], None] = log_end
        self.lock = threading.Lock()
        self._skip_warmup = skip_warmup
        self._on_fatal = on_fatal
        self._failure: BaseException | None = None
        self._counting = threading.Lock()

    def warm_up(self) -> None:
        """Makes all programs ready, unless that was done; a line in the log for each."""
        if self._skip_warmup:
            logger.warning("SKIP_WARMUP is set: programs will be compiled while requests wait for them")
            return
        started = time.monotonic()
        self.engine.warm_up(log_progress)
        return_freed_memory()
        logger.info("Warm-up took {:.1f} s", time.monotonic() - started)

    def check_health(self) -> None:
        """Raises RuntimeError if the engine failed, or does not come back. Safe from any thread."""
        if self._failure is not None:
            raise RuntimeError(f"The server is stopping: {self._failure}")
        self.engine.check_health()

    def fail(self, error: BaseException) -> None:
        """From now on the shard is not healthy, and the process is to end."""
        self._failure = error
        self._on_fatal(error)

    def refused(self, message: str) -> None:
        """Counts a refusal, and logs it without what is too long of it. Safe from any thread."""
        with self._counting:
            self.refusals += 1
        logger.warning("{}", shortened(message))


def serve(settings: Settings) -> int:
    """Settings -> files -> engine -> generator -> service; returns the exit code once the server has stopped.

    Raises what `load_engine` raises, and InvalidSettingError for a socket or a port that cannot be used.
    """
    # Not earlier: `--help` and downloads do without gRPC and the device's runtime.
    from text_generation_server.wire.server import ShardServer

    server = ShardServer(settings.socket_path)
    ignore_hf_transfer()
    # The launcher sets these even for one shard, and libraries take them for a distributed run.
    for name in DISTRIBUTED_VARIABLES:
        os.environ.pop(name, None)
    directory = model_directory(settings.model_id, settings.revision, os.environ)
    shard = load_shard(settings, directory, server.fail)
    if settings.metrics_port is not None:
        from text_generation_server.metrics import serve_metrics

        serve_metrics(shard, settings.metrics_port)
    if settings.otlp_endpoint is None:
        return server.run(shard)
    from text_generation_server.tracing import note_end, traced_calls

    def ended(generation: Generation) -> None:
        log_end(generation)
        note_end(generation)

    shard.ended = ended

    with traced_calls(settings.otlp_endpoint, settings.otlp_service_name) as interceptor:
        return server.run(shard, [interceptor])


def log_end(generation: Generation) -> None:
    """A line for each request that ends, for those who look for it."""
    end = generation.finished
    assert end is not None
    logger.debug(
        "Request {} ended: {}, {} tokens, {} of {} drafts accepted",
        generation.request_id,
        end.finish_reason.value,
        end.generated_tokens,
        generation.accepted,
        generation.drafted,
    )


def load_shard(settings: Settings, directory: Path, on_fatal: Callable[[BaseException], None]) -> Shard:
    """The shard for a checkpoint that lies in `directory`."""
    from text_generation_server.loading.engine import EngineOptions, load_engine

    adapters = [
        (adapter.name, adapter_directory(adapter.source, adapter.revision, os.environ))
        for adapter in settings.adapters
    ]
    with remote_code_mentioned(directory):
        options = EngineOptions(
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            dtype=settings.dtype,
            quantize=settings.quantize,
            scores_prompts=settings.prompt_logprobs,
            strength=settings.watermark,
            adapters=adapters,
            skip_warmup=settings.skip_warmup,
            hang_seconds=settings.hang_seconds,
            chips=settings.chips,
            prefill_chunk=settings.prefill_chunk,
            speculate=settings.speculate,
            steps=settings.steps_per_answer,
            cache_dtype=settings.cache_dtype,
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
    # Before anything that takes time: a file that cannot be read is refused at once.
    has_own_code = "auto_map" in raw_config(directory)
    try:
        yield
    except UnsupportedModelError as error:
        if not has_own_code:
            raise
        raise UnsupportedModelError(
            f"{str(error).rstrip('.')}. Its config.json names code of its own (auto_map), which this server "
            "never runs, with --trust-remote-code or without"
        ) from error
