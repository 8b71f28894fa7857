"""The eight calls of `generate.v3.TextGenerationService`, on one unix socket."""

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.pb.service_v3_pb2_grpc import TextGenerationServiceStub
from tpu_tgi.router.errors import ShardError
from tpu_tgi.router.shard import warmup
from tpu_tgi.router.shard.generation import CachedBatch, NewBatch, ShardInfo, ShardLimits, Step
from tpu_tgi.router.shard.wire import from_cached_batch, from_step, text_input, to_batch, to_cached_batch
from tpu_tgi.router.tracing import call_metadata

# The id of the request and of the batch that probe an unhealthy shard: the largest unsigned 64-bit integer.
LIVENESS_ID = 2**64 - 1

T = TypeVar("T")

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class ShardClient:
    """One connection, shared by the batching loop and by the health check; no deadlines, no retries.

    Every method raises ShardError if the call fails.
    """

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=UNLIMITED)
        self._called: float | None = None
        self._stub = TextGenerationServiceStub(self._channel)

    @property
    def seconds_in_call(self) -> float:
        """How long the prefill or decode that runs now has been running; 0 if there is none."""
        return 0.0 if self._called is None else time.monotonic() - self._called

    async def _step(self, call: Awaitable[pb.PrefillResponse | pb.DecodeResponse]) -> Step:
        self._called = time.monotonic()
        try:
            return from_step(await answer(call))
        finally:
            self._called = None

    async def close(self) -> None:
        await self._channel.close()

    async def service_discovery(self) -> list[str]:
        """The socket paths of all shards."""
        response = await answer(self._stub.ServiceDiscovery(pb.ServiceDiscoveryRequest()))
        return [url.removeprefix("unix://") for url in response.urls]

    async def info(self) -> ShardInfo:
        response = await answer(self._stub.Info(pb.InfoRequest()))
        return ShardInfo(
            requires_padding=response.requires_padding,
            dtype=response.dtype,
            device_type=response.device_type,
            speculate=response.speculate,
            support_chunking=response.support_chunking,
            block_size=response.block_size,
        )

    async def warm_up(
        self,
        max_input_tokens: int | None,
        max_prefill_tokens: int,
        max_total_tokens: int | None,
        max_batch_size: int | None,
    ) -> ShardLimits:
        """Warms the shard up as the stock router does (protocol section 1.4); this may take minutes."""
        request = warmup.warmup_request(
            max_input_tokens, max_prefill_tokens, max_total_tokens, max_batch_size
        )
        response = await answer(self._stub.Warmup(request))
        supported = response.HasField("max_supported_total_tokens")
        return ShardLimits(
            max_supported_total_tokens=response.max_supported_total_tokens if supported else None,
            max_input_tokens=response.max_input_tokens,
            max_total_tokens=response.max_total_tokens,
        )

    async def prefill(self, batch: NewBatch, cached_batch: CachedBatch | None) -> Step:
        request = pb.PrefillRequest(batch=to_batch(batch))
        if cached_batch is not None:
            request.cached_batch.CopyFrom(to_cached_batch(cached_batch))
        return await self._step(self._stub.Prefill(request, metadata=call_metadata()))

    async def decode(self, batches: Sequence[CachedBatch]) -> Step:
        request = pb.DecodeRequest(batches=[to_cached_batch(batch) for batch in batches])
        return await self._step(self._stub.Decode(request, metadata=call_metadata()))

    async def filter_batch(self, batch_id: int, keep: Sequence[int]) -> CachedBatch:
        """Forgets all requests of the batch but those in `keep`, which must not be empty."""
        request = pb.FilterBatchRequest(batch_id=batch_id, request_ids=keep)
        return from_cached_batch((await answer(self._stub.FilterBatch(request))).batch)

    async def clear_cache(self, batch_id: int | None) -> None:
        """Forgets one batch, or everything."""
        await answer(self._stub.ClearCache(pb.ClearCacheRequest(id=batch_id)))

    async def health(self) -> None:
        await answer(self._stub.Health(pb.HealthRequest()))

    async def liveness(self) -> None:
        """A real prefill of one token: the probe after an error (protocol section 1.7)."""
        request = pb.Request(
            id=LIVENESS_ID,
            inputs="liveness",
            input_chunks=text_input("liveness"),
            truncate=1,
            add_special_tokens=False,
            parameters=pb.NextTokenChooserParameters(
                temperature=1.0, top_p=1.0, typical_p=1.0, repetition_penalty=1.0
            ),
            stopping_parameters=pb.StoppingCriteriaParameters(max_new_tokens=1),
            blocks=[0],
            slots=[0],
        )
        batch = pb.Batch(id=LIVENESS_ID, requests=[request], size=1, max_tokens=2, max_blocks=1)
        await answer(self._stub.Prefill(pb.PrefillRequest(batch=batch)))


async def answer(call: Awaitable[T]) -> T:
    """The answer to a call; a failure becomes ShardError with the message of the gRPC status."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise ShardError(error.details() or error.code().name) from error
