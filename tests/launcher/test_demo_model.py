"""The program that prepares the demo model."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("argument", "exit_code"), [("--help", 0), ("--no-such-option", 2)])
def test_an_option_is_no_directory_that_the_model_is_written_to(
    argument: str, exit_code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tpu_tgi.demo_model", argument]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == exit_code
    assert "usage:" in outcome.stdout + outcome.stderr
    assert list(tmp_path.iterdir()) == []
