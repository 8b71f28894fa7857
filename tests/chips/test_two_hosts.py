"""The prototype of several hosts: two processes share a model, the first serves and the second follows."""

import json
import re
import subprocess
import sys
from pathlib import Path

from documentation.repository import ROOT
from support import engines
from support.checkpoints import save
from support.driver import Driver
from text_generation_server.sampling.parameters import SamplingParameters
from wire.shard_process import environment

REQUESTS = [([5, 6, 7], 12), ([9, 10, 11, 12, 13, 14], 6)]


def test_two_processes_give_the_tokens_of_one(tmp_path: Path) -> None:
    model = save("llama", tmp_path)
    engine = engines.loader(model, batch_size=4, max_length=64, skip_warmup=True).load()
    driver = Driver(engine)
    expected = [driver.alone(prompt, count, SamplingParameters()) for prompt, count in REQUESTS]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.two_hosts", str(model)],
        cwd=ROOT,
        env=environment(),
        input="\n".join(json.dumps(request) for request in REQUESTS),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if re.fullmatch(r"\[[0-9, ]+\]", line)]
    assert answers == expected
