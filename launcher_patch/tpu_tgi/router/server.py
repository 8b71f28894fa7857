"""The router's life: it warms the shard up, serves HTTP, and drains."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn
from loguru import logger

from tpu_tgi.router.app import make_app
from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.context import RouterContext
from tpu_tgi.router.errors import RouterStartError, ShardError
from tpu_tgi.router.metrics import Metrics
from tpu_tgi.router.model.texts import ModelTexts
from tpu_tgi.router.model.tokenization import Tokenization
from tpu_tgi.router.requests.validation import ValidationLimits, Validator
from tpu_tgi.router.scheduling.batching import BatchingLoop, BatchingRules
from tpu_tgi.router.scheduling.blocks import BlockAllocator
from tpu_tgi.router.scheduling.inference import Inference
from tpu_tgi.router.scheduling.queue import WaitingQueue
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.router.shard.client import ShardClient
from tpu_tgi.router.shard.generation import ShardInfo
from tpu_tgi.router.shard.health import Health
from tpu_tgi.router.shard.limits import ServingLimits, agree, prefill_tokens
from tpu_tgi.router.tracing import Tracing

EXAMPLE = (
    "curl 127.0.0.1:%d/generate -X POST -H 'Content-Type: application/json' "
    """-d '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}'"""
)

# The stock router never closes an idle connection; a client that reuses one must not find it closed.
IDLE_SECONDS = 600

# Of a request's head, however it is cut into pieces; clients of the stock router may send long cookies.
HEAD_BYTES = 2**17

# Far beyond any prefill or decode: nothing is compiled in either.
HANG_SECONDS = 300.0


class HttpServer(uvicorn.Server):
    """Leaves signals to the launcher, and says when it accepts connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            raise RouterStartError(f"HTTP cannot be served, give another `--port`: {error}") from error
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info("Ready: serving on http://{}:{}", f"[{host}]" if ":" in host else host, port)
            logger.info("Try it: {}", EXAMPLE % port)


class Router:
    """A router whose shard is warm. Made by `start`, used once."""

    def __init__(
        self,
        settings: RouterSettings,
        client: ShardClient,
        info: ShardInfo,
        limits: ServingLimits,
        texts: ModelTexts,
        tracing: Tracing,
    ) -> None:
        self._client = client
        tokenization = self._tokenization = Tokenization(texts.tokenizer, settings.validation_workers)
        metrics = Metrics(limits.max_input_tokens, limits.max_total_tokens)
        self._chat_template = ChatTemplate(texts.template, metrics)
        queue = WaitingQueue(
            BlockAllocator(limits.max_batch_total_tokens, info.block_size),
            info.speculate,
            info.support_chunking,
            metrics,
        )
        rules = BatchingRules(
            max_size=settings.max_batch_size,
            prefill_tokens=limits.max_batch_prefill_tokens,
            total_tokens=limits.max_batch_total_tokens,
            waiting_served_ratio=settings.waiting_served_ratio,
            max_waiting_tokens=settings.max_waiting_tokens,
            chunking=info.support_chunking,
        )
        self._batching = BatchingLoop(client, queue, rules, metrics, tracing)
        validator = Validator(
            ValidationLimits(
                max_best_of=settings.max_best_of,
                max_stop_sequences=settings.max_stop_sequences,
                max_top_n_tokens=settings.max_top_n_tokens,
                max_input_tokens=limits.max_input_tokens,
                max_total_tokens=limits.max_total_tokens,
                disable_grammar_support=settings.disable_grammar_support,
                multimodal=texts.multimodal,
            ),
            tokenization.count,
        )
        health = Health(client, HANG_SECONDS)
        context = RouterContext(
            settings=settings,
            limits=limits,
            inference=Inference(validator, queue, health, metrics, limits.max_concurrent_requests),
            health=health,
            metrics=metrics,
            tokenization=tokenization,
            chat_template=self._chat_template,
            # The stock launcher's form: number of shards and device.
            compute_type=settings.compute_type or f"1-{info.device_type}",
        )
        config = uvicorn.Config(
            make_app(context, tracing),
            log_config=None,
            access_log=False,
            lifespan="off",
            # What the tests know, whatever else is installed.
            http="h11",
            ws="none",
            h11_max_incomplete_event_size=HEAD_BYTES,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        self._http = HttpServer(config)

    @classmethod
    async def start(
        cls, settings: RouterSettings, socket_path: str, texts: ModelTexts, tracing: Tracing | None = None
    ) -> Self:
        """Connects, clears and warms the shard up in the stock router's order (protocol section 1.3).

        Raises RouterStartError if shard and settings do not fit each other, or if the shard refuses.
        """
        client = ShardClient(socket_path)
        try:
            shards = await client.service_discovery()
            if shards != [socket_path]:
                raise RouterStartError(
                    f"The embedded router serves one shard, {socket_path}; it was told of {shards}"
                )
            await client.clear_cache(None)
            info = await client.info()
            logger.info("Warming up the shard")
            warm = await client.warm_up(
                settings.max_input_tokens,
                prefill_tokens(settings, info),
                settings.max_total_tokens,
                settings.max_batch_size,
            )
            limits = agree(settings, info, warm)
            logger.info("Limits: {}", limits)
        except ShardError as error:
            await client.close()
            raise RouterStartError(f"The shard could not be warmed up: {error}") from error
        except BaseException:
            await client.close()
            raise
        return cls(settings, client, info, limits, texts, tracing or Tracing())

    async def serve(self, listener: socket.socket) -> None:
        """Serves until `stop` is called and everybody is answered; `listener` is bound and not yet listening.

        Raises what ended the batching loop, if that ends first, and RouterStartError if the port is taken.
        """
        batching = asyncio.create_task(self._batching.run(), name="batching")
        http = asyncio.create_task(self._http.serve([listener]), name="http")
        try:
            await asyncio.wait({batching, http}, return_when=asyncio.FIRST_COMPLETED)
            if batching.done():
                # Its clients were told; let the answers out before the reason is raised.
                self.stop(timeout=1)
                await http
                batching.result()
            http.result()
        finally:
            for task in (http, batching):
                task.cancel()
            await asyncio.gather(http, batching, return_exceptions=True)
            self._tokenization.close()
            self._chat_template.close()
            await self._client.close()

    def stop(self, timeout: float) -> None:
        """New connections are refused from now on; running answers have `timeout` seconds to finish."""
        self._http.config.timeout_graceful_shutdown = max(1, round(timeout))
        self._http.should_exit = True
