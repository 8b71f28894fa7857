"""The process of the shard, with the chips of its host: virtual devices of the CPU."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.checkpoints import save
from support.small_tokenizers import byte_level
from text_generation_server.pb import messages_pb2 as pb
from wire.router_messages import prefill, request
from wire.shard_process import connected, environment, wait_until

CHIPS = 4


@contextmanager
def serving(model: Path, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A shard whose socket exists, and the file that it logs to."""
    log = directory / "log"
    variables = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={CHIPS}",
        "TPU_TGI_COMPILE_CACHE": str(directory / "cache"),
        "HF_SEQUENCE_LENGTH": "32",
        # Only the programs of these requests are made.
        "SKIP_WARMUP": "1",
    }
    command = [sys.executable, "-m", "text_generation_server.cli", "serve", str(model)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--uds-path", str(directory / "shard")],
            env=environment(variables),
            stdout=file,
            stderr=file,
        )
    try:
        wait_until(lambda: (directory / "shard-0").exists() or process.poll() is not None, seconds=120)
        assert process.poll() is None, log.read_text()
        yield process, log
    finally:
        process.kill()
        process.wait()


def first_token(directory: Path) -> int:
    with connected(directory / "shard-0") as stub:
        # The socket is there a moment before anybody listens on it.
        answer = stub.Prefill(prefill(0, request(0, "Grüße", max_new_tokens=8)), wait_for_ready=True)
        while not answer.generations:
            answer = stub.Decode(pb.DecodeRequest(batches=[answer.batch]))
        token: int = answer.generations[0].tokens.ids[0]
        return token


def test_a_shard_that_is_killed_ends_at_once_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    tokenizer = byte_level()
    model = save("llama", tmp_path / "model", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(model)
    with serving(model, tmp_path) as (process, log):
        token = first_token(tmp_path)
        assert f"on each of {CHIPS} chips" in log.read_text()
        # In the middle of an answer.
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL
    # What it left there would be taken for the next one's.
    (tmp_path / "shard-0").unlink()
    with serving(model, tmp_path) as (process, log):
        assert first_token(tmp_path) == token
        assert "compiled in" not in log.read_text(), "all programs are in the cache"
        process.terminate()
        assert process.wait(timeout=30) == 0
