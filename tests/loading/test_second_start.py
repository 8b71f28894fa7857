"""A start for which everything is in the cache compiles nothing and needs no torch; a broken cache costs time only."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import save
from support.small_tokenizers import byte_level

START = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    if "without torch" in sys.argv:
        for name in ("torch", "torch_xla", "transformers"):
            sys.modules[name] = None
    from text_generation_server.engine.contract import Wanted, WarmupProgress
    from text_generation_server.loading.engine import EngineOptions, load_engine
    from text_generation_server.runtime.mesh import DeviceMesh
    from text_generation_server.sampling.parameters import SamplingParameters
    origins, children = [], []
    assemble = DeviceMesh.assemble
    def noted(*arguments):
        children.append(Path(f"/proc/self/task/{os.getpid()}/children").read_text())
        return assemble(*arguments)
    DeviceMesh.assemble = noted
    options = EngineOptions(batch_size=2, max_length=32, steps=4)
    loaded = load_engine(Path(sys.argv[1]), options, Path(sys.argv[2]), lambda step: origins.append(step.origin))
    loaded.engine.warm_up(lambda _: None)
    prompt = loaded.tokenizer.encode("Grüße", add_special_tokens=True)
    loaded.engine.fill(1, prompt, SamplingParameters())
    loaded.engine.extend()
    tokens = []
    for _ in range(3):
        tokens.append(loaded.engine.start_step().choose().read()[1][0].token_id)
    several = loaded.engine.start_steps(4, {1: Wanted(3)}).read()[1]
    tokens += [token.token_id for token in several]
    imported = [name for name in ("torch", "torch_xla", "transformers") if sys.modules.get(name)]
    said = {"origins": sorted(set(origins)), "tokens": tokens, "imported": imported}
    print(json.dumps(said | {"children while weights are read": sorted(set(children))}))
    """
)


def start(checkpoint: Path, cache: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", START, str(checkpoint), str(cache), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_level()
    directory = save("llama", tmp_path_factory.mktemp("model"), vocab_size=len(tokenizer))
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def filled(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache, and what the start that filled it said."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, start(checkpoint, cache)


def test_the_first_start_compiles_and_keeps_torch_out_of_its_process(
    filled: tuple[Path, dict[str, Any]],
) -> None:
    _, first = filled
    assert first["origins"] == ["compiled"]
    assert first["imported"] == []


def test_weights_are_read_when_the_process_with_torch_is_gone(filled: tuple[Path, dict[str, Any]]) -> None:
    _, first = filled
    assert first["children while weights are read"] == [""]


def test_the_second_start_compiles_nothing_and_works_where_torch_cannot_be_imported(
    checkpoint: Path, filled: tuple[Path, dict[str, Any]]
) -> None:
    cache, first = filled
    second = start(checkpoint, cache, "without torch")
    assert second["origins"] == ["from cache"]
    assert second["tokens"] == first["tokens"]


def test_entries_that_are_rubbish_are_made_again(
    checkpoint: Path, filled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cache, first = filled
    for place, file in enumerate(sorted(cache.iterdir())):
        content = file.read_bytes()
        # Some as they were, some cut, some that are no entry at all.
        (tmp_path / file.name).write_bytes([content, content[: len(content) // 2], b"rubbish"][place % 3])
    again = start(checkpoint, tmp_path)
    assert again["tokens"] == first["tokens"]
    assert "compiled" in again["origins"]


def test_a_cache_that_cannot_be_used_is_no_reason_not_to_start(
    checkpoint: Path, filled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    again = start(checkpoint, tmp_path / "file" / "cache")
    assert again["tokens"] == filled[1]["tokens"]
