"""A shard on a real socket, with a fake engine, and the clients of both wire versions."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from text_generation_server.batching.generator import Generator
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.pb import service_v2_pb2_grpc, service_v3_pb2_grpc
from text_generation_server.shard import Shard
from text_generation_server.text.tokenizer import ModelTokenizer
from text_generation_server.wire.limits import WireVersion
from text_generation_server.wire.server import LARGEST_REQUEST, add_services

from .spelling_model import eos_id, next_letter, spelling_tokenizer

BATCH_SIZE = 4
MAX_LENGTH = 128


@dataclass
class RunningShard:
    """A shard that listens, and what a test may look at.

    Attributes:
        fatal: the errors after which the process would end.
    """

    engine: FakeEngine
    shard: Shard
    channel: grpc.Channel
    fatal: list[BaseException] = field(default_factory=list)

    def stub(self, version: WireVersion) -> Any:
        module = service_v2_pb2_grpc if version is WireVersion.V2 else service_v3_pb2_grpc
        return module.TextGenerationServiceStub(self.channel)


@pytest.fixture
def engine_fields() -> dict[str, Any]:
    """What the engine of `running` is besides; for modules to replace."""
    return {}


@pytest.fixture
def running(tmp_path: Path, engine_fields: dict[str, Any]) -> Iterator[RunningShard]:
    engine = FakeEngine(
        next_token=next_letter,
        batch_size=BATCH_SIZE,
        max_length=MAX_LENGTH,
        vocab_size=len(spelling_tokenizer()),
        **engine_fields,
    )
    socket_path = str(tmp_path / "shard-0")
    fatal: list[BaseException] = []
    shard = Shard(
        generator=Generator(
            engine, ModelTokenizer.from_transformers(spelling_tokenizer()), frozenset({eos_id()})
        ),
        engine=engine,
        skip_warmup=False,
        end_token_id=eos_id(),
        max_input_tokens=None,
        socket_path=socket_path,
        on_fatal=fatal.append,
    )
    server = grpc.server(
        ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", LARGEST_REQUEST)]
    )
    add_services(server, shard)
    server.add_insecure_port(f"unix:{socket_path}")
    server.start()
    # Rust clients limit only what they receive, to 4 MiB, which is also the limit of a Python client.
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        yield RunningShard(engine, shard, channel, fatal)
    server.stop(None).wait()


@pytest.fixture(params=[WireVersion.V2, WireVersion.V3], ids=["v2", "v3"])
def version(request: pytest.FixtureRequest) -> WireVersion:
    value: WireVersion = request.param
    return value


@pytest.fixture
def stub(running: RunningShard, version: WireVersion) -> Any:
    return running.stub(version)
