"""The command line as people write it."""

from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start
from tpu_tgi.embedded.launch import missing_libtpu


def run(directory: Path, *words: str) -> Outcome:
    return Outcome(start(install(directory / "bin", None, None), directory, *words))


def test_the_first_word_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    outcome = run(tmp_path, str(tmp_path / "model"), "--dry-run")
    assert outcome.exit_code == 0
    assert f"text-generation-server serve {tmp_path}/model " in outcome.output


def test_a_model_is_named_once(tmp_path: Path) -> None:
    outcome = run(tmp_path, "a", "--model-id", "b", "--dry-run")
    assert outcome.exit_code == 1
    assert outcome.output == "Error: `a` and `--model-id` both name a model: leave one of them out\n"


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").output == f"tpu-tgi {version('tpu-tgi')}\n"


@pytest.mark.parametrize("content", [None, "\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    outcome = run(tmp_path, "a", "--dry-run", "--api-key-file", str(file))
    assert outcome.exit_code == 1
    assert "a file with a key on each line would work" in outcome.output.lower()


def test_a_tpu_without_its_library_is_told(tmp_path: Path) -> None:
    assert missing_libtpu(tmp_path) == []
    (tmp_path / "accel0").touch()
    (said,) = missing_libtpu(tmp_path)
    assert "pip install 'tpu-tgi[tpu]'" in said
