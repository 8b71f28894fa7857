"""Serving needs no library that traces, runs or reads models: only the engine's own rooms do."""

import subprocess
import sys
from pathlib import Path

from support import small_tokenizers
from text_generation_server.text.tokenizer import ModelTokenizer

SERVICE = """
import pkgutil, sys, importlib
for name in ("torch", "torch_xla", "transformers", "jax"):
    sys.modules[name] = None

from concurrent.futures import ThreadPoolExecutor
import grpc
import text_generation_server
from text_generation_server import cli, metrics, settings, shard
from text_generation_server.batching.generator import Generator
from text_generation_server.engine import contract
from text_generation_server.engine.fake import FakeEngine
from text_generation_server.pb import messages_pb2 as pb, service_v3_pb2_grpc
from text_generation_server.sampling import parameters
from text_generation_server.text.tokenizer import ModelTokenizer
from text_generation_server.wire.server import add_services
for room in ("batching", "grammar", "text", "wire"):
    package = importlib.import_module(f"text_generation_server.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "trial":
            importlib.import_module(f"{package.__name__}.{module.name}")

tokenizer = ModelTokenizer.from_json(open(sys.argv[1]).read())
engine = FakeEngine(vocab_size=len(tokenizer))
served = shard.Shard(
    generator=Generator(engine, tokenizer, frozenset({tokenizer.eos_token_id})),
    engine=engine, end_token_id=0, socket_path=sys.argv[2], on_fatal=print,
)
server = grpc.server(ThreadPoolExecutor(2))
add_services(server, served)
server.add_insecure_port(f"unix:{sys.argv[2]}")
server.start()
with grpc.insecure_channel(f"unix:{sys.argv[2]}") as channel:
    stub = service_v3_pb2_grpc.TextGenerationServiceStub(channel)
    chooser = pb.NextTokenChooserParameters(
        temperature=1, top_p=1, typical_p=1, repetition_penalty=1,
        grammar="[a-f]{3}", grammar_type=pb.GRAMMAR_TYPE_REGEX,
    )
    request = pb.Request(
        id=0, inputs="The quick", parameters=chooser,
        stopping_parameters=pb.StoppingCriteriaParameters(max_new_tokens=9),
    )
    answer = stub.Prefill(pb.PrefillRequest(batch=pb.Batch(id=0, requests=[request], size=1)))
    while answer.HasField("batch"):
        answer = stub.Decode(pb.DecodeRequest(batches=[answer.batch]))
    print(answer.generations[0].generated_text.text)
server.stop(None)
"""


def test_a_whole_request_with_a_grammar_is_served_without_torch_transformers_and_jax(tmp_path: Path) -> None:
    stored = tmp_path / "tokenizer.json"
    stored.write_text(ModelTokenizer.from_transformers(small_tokenizers.byte_level()).to_json())
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, str(stored), str(tmp_path / "socket")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.splitlines()[-1]
    assert len(text) == 3
    assert set(text) <= set("abcdef")
