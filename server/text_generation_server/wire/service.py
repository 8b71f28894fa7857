"""The RPCs: what a stock router asks, and answers that cannot kill it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from loguru import logger

from text_generation_server.batching.requests import BatchOutcome, GenerationRequest
from text_generation_server.errors import InvalidRequestError, InvalidSettingError, UnknownBatchError, quoted
from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.pb.service_v2_pb2_grpc import TextGenerationServiceServicer as ServicerV2
from text_generation_server.pb.service_v3_pb2_grpc import TextGenerationServiceServicer as ServicerV3
from text_generation_server.shard import Shard
from text_generation_server.wire.limits import WireVersion, block_size, limits_for_router
from text_generation_server.wire.messages import (
    batch_message,
    encodable,
    generation_message,
    generation_request,
    refusal_message,
)

LIVENESS_ID = 2**64 - 1
"""The id of a request that only asks whether the shard still works; no other request has it."""

LONGEST_STATUS = 1000
"""Characters of a status message: it travels in HTTP/2 headers, whose size is limited."""


class TextGenerationService(ServicerV2, ServicerV3):
    """One wire version of the service."""

    def __init__(self, version: WireVersion, shard: Shard) -> None:
        self._version = version
        self._shard = shard
        self._router_sends_add_special_tokens = version is WireVersion.V3

    def Info(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.InfoResponse:
        info = self._shard.info
        return pb.InfoResponse(
            requires_padding=self._version is WireVersion.V2,
            dtype=info.dtype,
            device_type=info.device_type,
            speculate=info.drafts,
            support_chunking=False,
            use_prefix_caching=False,
            attention_impl="static",
            block_size=block_size(info.max_length, info.drafts),
        )

    def ServiceDiscovery(
        self, request: pb.ServiceDiscoveryRequest, context: grpc.ServicerContext
    ) -> pb.ServiceDiscoveryResponse:
        return pb.ServiceDiscoveryResponse(urls=[f"unix://{self._shard.socket_path}"])

    def Health(self, request: pb.HealthRequest, context: grpc.ServicerContext) -> pb.HealthResponse:
        """Does not wait for the device, so that a long prefill does not look like a dead server."""
        with self._statuses(context):
            self._shard.check_health()
        return pb.HealthResponse()

    def ClearCache(
        self, request: pb.ClearCacheRequest, context: grpc.ServicerContext
    ) -> pb.ClearCacheResponse:
        """Never fails: an error here ends the router's batching (protocol section 4.1)."""
        with self._no_status(context), self._shard.lock:
            self._shard.generator.clear(request.id if request.HasField("id") else None)
        return pb.ClearCacheResponse()

    def FilterBatch(
        self, request: pb.FilterBatchRequest, context: grpc.ServicerContext
    ) -> pb.FilterBatchResponse:
        """Never fails, like ClearCache; without a batch in the answer the router gives its requests up."""
        with self._no_status(context), self._shard.lock:
            try:
                batch = self._shard.generator.filter(request.batch_id, list(request.request_ids))
            except UnknownBatchError as error:
                logger.warning("FilterBatch: {}", error)
                batch = None
            return pb.FilterBatchResponse(batch=batch_message(batch))
        return pb.FilterBatchResponse()

    def Warmup(self, request: pb.WarmupRequest, context: grpc.ServicerContext) -> pb.WarmupResponse:
        """Compiles; what the router sends along is not generated from.

        Its requests share one id, have a picture in them, and ask for impossible lengths (protocol section
        1.4), while the programs and their shapes are known without them.
        """
        shard = self._shard
        with self._statuses(context):
            limits = limits_for_router(
                self._version,
                batch_size=shard.info.batch_size,
                max_length=shard.info.max_length,
                drafts=shard.info.drafts,
                max_input_tokens=request.max_input_tokens
                if request.HasField("max_input_tokens")
                else shard.max_input_tokens,
                max_prefill_tokens=request.max_prefill_tokens,
                max_total_tokens=request.max_total_tokens if request.HasField("max_total_tokens") else None,
            )
            # Every v3 router sets the flag in each of these, except 2.1 and 2.2, whose v3 does not have it.
            self._router_sends_add_special_tokens = self._version is WireVersion.V3 and any(
                each.add_special_tokens for each in request.batch.requests
            )
            with shard.lock:
                shard.warm_up()
        return pb.WarmupResponse(
            max_supported_total_tokens=limits.max_supported_total_tokens,
            max_input_tokens=limits.max_input_tokens,
            max_total_tokens=limits.max_total_tokens,
        )

    def Prefill(self, request: pb.PrefillRequest, context: grpc.ServicerContext) -> pb.PrefillResponse:
        """Takes new requests in. A bad one fails alone, and the others of its batch are served.

        The protocol has no error for one request of several, and failing the call fails them all. So a bad
        request among good ones is answered with one finished generation whose text is the error; the call
        itself fails only if none of its requests can be served.
        """
        shard = self._shard
        if any(each.id == LIVENESS_ID for each in request.batch.requests):
            # Like Health: it may come while all slots are busy, and must neither wait nor take one.
            with self._statuses(context):
                shard.check_health()
            return pb.PrefillResponse(generations=[refusal_message(LIVENESS_ID, "", shard.end_token_id)])
        with self._statuses(context), shard.lock:
            if not context.is_active():
                # The router left while this waited for the lock: nobody would ever clear these requests.
                return pb.PrefillResponse()
            if request.HasField("cached_batch"):
                raise InvalidRequestError(
                    "`cached_batch` must be absent: this server does not support chunking. "
                    f"Given: batch {request.cached_batch.id}"
                )
            requests, malformed = self._sort_out(request.batch)
            if not requests:
                raise InvalidRequestError("; ".join(dict.fromkeys(malformed.values())))
            outcome = shard.generator.prefill(request.batch.id, requests)
            failures = malformed | outcome.failures
            all_failed = len(failures) == len(request.batch.requests)
            return pb.PrefillResponse(**self._answer(outcome, failures, all_failed=all_failed))

    def Decode(self, request: pb.DecodeRequest, context: grpc.ServicerContext) -> pb.DecodeResponse:
        with self._statuses(context), self._shard.lock:
            if not request.batches:
                raise InvalidRequestError("`batches` must name at least one batch. Given: none")
            outcome = self._shard.generator.decode([batch.id for batch in request.batches])
            # They may be all that the router asked for.
            all_failed = not outcome.generations and outcome.batch is None
            return pb.DecodeResponse(**self._answer(outcome, outcome.failures, all_failed=all_failed))

    def _answer(self, outcome: BatchOutcome, failures: dict[int, str], *, all_failed: bool) -> dict[str, Any]:
        """The fields of the response to Prefill and to Decode. InvalidRequestError if there are failures only."""
        if failures and all_failed:
            raise InvalidRequestError("; ".join(dict.fromkeys(failures.values())))
        for request_id, message in failures.items():
            self._shard.refused(f"Request {request_id} was refused: {message}")
        for generation in outcome.generations:
            if generation.finished is not None:
                self._shard.ended(generation)
        refusals = [
            refusal_message(request_id, message, self._shard.end_token_id)
            for request_id, message in failures.items()
        ]
        return {
            "generations": [*map(generation_message, outcome.generations), *refusals],
            "batch": batch_message(outcome.batch),
            "forward_ns": outcome.timings.forward_ns,
            "decode_ns": outcome.timings.decode_ns,
            "total_ns": outcome.timings.total_ns,
        }

    def _sort_out(self, batch: pb.Batch) -> tuple[list[GenerationRequest], dict[int, str]]:
        """The requests that are well-formed, and by id why the others are not."""
        ids = [message.id for message in batch.requests]
        if not ids:
            raise InvalidRequestError("`requests` must not be empty. Given: none")
        if len(set(ids)) < len(ids):
            raise InvalidRequestError(
                f"`id` must be unique among the requests of a batch. Given: {quoted(str(ids))}"
            )
        requests: list[GenerationRequest] = []
        malformed: dict[int, str] = {}
        for message in batch.requests:
            try:
                requests.append(
                    generation_request(
                        message,
                        scores_prompts=self._shard.info.scores_prompts,
                        add_special_tokens=message.add_special_tokens
                        or not self._router_sends_add_special_tokens,
                    )
                )
            except InvalidRequestError as error:
                malformed[message.id] = str(error)
        return requests, malformed

    @contextmanager
    def _statuses(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Answers errors with a status, whose message the router shows to its clients."""
        try:
            yield
        except (InvalidRequestError, InvalidSettingError) as error:
            self._shard.refused(f"Refused: {error}")
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, encodable(str(error))[:LONGEST_STATUS])
        except UnknownBatchError as error:
            logger.warning("Refused: {}", error)
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the router must be told and the process ended
            self._end_after_answer(context, error)
            message = f"The model server failed and is stopping: {type(error).__name__}: {error}"
            context.abort(grpc.StatusCode.INTERNAL, encodable(message)[:LONGEST_STATUS])

    @contextmanager
    def _no_status(self, context: grpc.ServicerContext) -> Iterator[None]:
        """For RPCs whose failure would end the router's batching: they succeed, and then the process ends."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as above
            self._end_after_answer(context, error)

    def _end_after_answer(self, context: grpc.ServicerContext, error: Exception) -> None:
        logger.opt(exception=error).error(
            "An RPC failed, and the state of the server cannot be trusted any more"
        )
        if not context.add_callback(lambda: self._shard.fail(error)):
            self._shard.fail(error)
