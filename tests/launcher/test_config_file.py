"""Options from a file, and completions for a shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start


def dry_run(directory: Path, config: str, *words: str, **variables: str) -> Outcome:
    file = directory / "service.toml"
    file.write_text(config)
    (directory / "model").mkdir(exist_ok=True)
    command = [*words, "--config", str(file), "--dry-run"]
    return Outcome(start(install(directory / "bin", None, None), directory, *command, **variables))


def test_a_file_gives_what_nobody_else_gives(tmp_path: Path) -> None:
    config = f'''
        model-id = "{tmp_path}/model"
        max-batch-size = 3
        max_total_tokens = 64
        port = 8081
        dtype = "float32"
    '''
    outcome = dry_run(tmp_path, config, "--max-batch-size", "5", PORT="8082")
    assert outcome.exit_code == 0, outcome.output
    assert "  batch size                 5                  `--max-batch-size 5`" in outcome.lines
    assert "  sequence length            64                 `--max-total-tokens 64`" in outcome.lines
    assert "http://0.0.0.0:8082" in outcome.output
    assert "--dtype float32" in outcome.output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "max-batchsize = 3",
            "has `max-batchsize`, which is no option of `tpu-tgi`: `max-batch-size` would work",
        ),
        ("max-batch-size 3", "cannot be read"),
        ("max-batch-size = 'many'", "unable to parse string as an integer"),
        ("max-batch-size = 0", "should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, config: str, message: str) -> None:
    outcome = dry_run(tmp_path, config, "model")
    assert outcome.exit_code in (1, 2)
    assert message in " ".join(outcome.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tpu-tgi --max-batch-", "--max-batch-size"),
        ("tpu-tgi model --dtype b", "bfloat16"),
        ("tpu-tgi c", "chat"),
        ("tpu-tgi d", "demo"),
        ("tpu-tgi ", "plan"),
        ("tpu-tgi chat --sy", "--system"),
        ("tpu-tgi plan --tp", "--tpu"),
        ("tpu-tgi demo --max-batch-", "--max-batch-size"),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes_options_values_and_commands(shell: str, line: str, found: str) -> None:
    """As the shells call what `tpu-tgi --show-completion` prints for them."""
    of_shell = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    variables = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PATH": "/usr/bin:/bin",
        "_TPU_TGI_COMPLETE": f"complete_{shell}",
        **of_shell[shell],
    }
    outcome = subprocess.run(
        [sys.executable, "-m", "tpu_tgi"], env=variables, capture_output=True, text=True, check=False
    )
    assert found in outcome.stdout.split()
