"""The process around the service: its socket, the gRPC server, signals, and when it ends."""

import os
import signal
import socket
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import grpc
from grpc_reflection.v1alpha import reflection
from loguru import logger

from text_generation_server.errors import InvalidSettingError
from text_generation_server.pb import service_v2_pb2, service_v2_pb2_grpc, service_v3_pb2, service_v3_pb2_grpc
from text_generation_server.shard import Shard
from text_generation_server.wire.limits import WireVersion
from text_generation_server.wire.service import TextGenerationService

LARGEST_REQUEST = 2**31 - 1
"""Bytes. Routers do not limit their requests, while gRPC refuses more than 4 MiB unless told otherwise."""

THREADS = 16
"""One RPC holds the generator; the others are health checks, and must find a thread."""

GRACE_SECONDS = 5.0
"""For the RPC in flight when the server is told to stop: a prefill or a decode, not a compilation."""

PARENT_CHECK_SECONDS = 0.5


class ShardServer:
    """Serves one shard on one unix socket until a signal, a fatal error or the end of the parent process."""

    def __init__(self, socket_path: str) -> None:
        """Raises InvalidSettingError if the socket cannot be used, before a model is loaded in vain."""
        self._path = Path(socket_path)
        # The launcher that started this process. When it is killed, nobody else would end the shard.
        self._parent = os.getppid()
        # Unlike Event.set(), put() may interrupt get() in the same thread, as a signal handler does.
        self._stops: SimpleQueue[int] = SimpleQueue()
        claim_socket_path(self._path)

    def fail(self, error: BaseException) -> None:
        """Makes `run` return 1; callable from any thread."""
        logger.error("Stopping, because the engine failed: {}: {}", type(error).__name__, error)
        self._stops.put(1)

    def run(self, shard: Shard, interceptors: Sequence[grpc.ServerInterceptor] = ()) -> int:
        """Serves until told to stop, and returns the exit code of the process: 0, or 1 after `fail`.

        The socket exists only while this runs: the launcher takes it for readiness (protocol section 6.4).
        """
        server = grpc.server(
            ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="rpc"),
            interceptors=interceptors,
            options=[("grpc.max_receive_message_length", LARGEST_REQUEST)],
        )
        add_services(server, shard)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, frame: self._stops.put(0))
        claim_socket_path(self._path)
        try:
            server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise InvalidSettingError(f"--uds-path: cannot listen on {self._path}: {error}") from error
        server.start()
        logger.info("Server started at unix://{}", self._path)
        exit_code = self._wait()
        logger.info("Shutting down")
        server.stop(GRACE_SECONDS).wait()
        self._path.unlink(missing_ok=True)
        return exit_code

    def _wait(self) -> int:
        while True:
            try:
                return self._stops.get(timeout=PARENT_CHECK_SECONDS)
            except Empty:
                if os.getppid() != self._parent:
                    logger.warning("The process that started this server ({}) has ended", self._parent)
                    return 0


def add_services(server: grpc.Server, shard: Shard) -> None:
    """Registers both wire versions and reflection."""
    service_v2_pb2_grpc.add_TextGenerationServiceServicer_to_server(
        TextGenerationService(WireVersion.V2, shard), server
    )
    service_v3_pb2_grpc.add_TextGenerationServiceServicer_to_server(
        TextGenerationService(WireVersion.V3, shard), server
    )
    names = [
        module.DESCRIPTOR.services_by_name["TextGenerationService"].full_name
        for module in (service_v2_pb2, service_v3_pb2)
    ]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


def claim_socket_path(path: Path) -> None:
    """Removes the socket that a dead server left behind.

    gRPC itself would replace any file of that name without asking. Raises InvalidSettingError if the path
    is in use, is no socket, or cannot be.
    """
    if not path.parent.is_dir():
        raise InvalidSettingError(f"--uds-path: {path.parent} is not a directory. Create it, or use another")
    if not os.access(path.parent, os.W_OK):
        raise InvalidSettingError(f"--uds-path: {path.parent} is not writable. Use another path")
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise InvalidSettingError(
            f"--uds-path: {path} exists and is no socket. Remove it, or use another path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            logger.warning("Removing {}, which a server that is gone left behind", path)
            path.unlink()
            return
        except OSError as error:
            raise InvalidSettingError(
                f"--uds-path: {path} cannot be used: {error}. Use another path"
            ) from error
    raise InvalidSettingError(
        f"--uds-path: another server is listening on {path}. Stop it, or use another path "
        "(--shard-uds-path of the launcher)"
    )
