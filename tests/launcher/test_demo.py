"""`tpu-tgi demo`: which model it serves, and where."""

from pathlib import Path

import pytest

from launcher.programs import Outcome, install, start
from text_generation_server.errors import InvalidSettingError
from tpu_tgi import demo
from tpu_tgi.demo import demo_arguments


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of somebody who has served the demo model before."""
    directory = tmp_path / ".cache/tpu-tgi/models/SmolLM2-135M-Instruct"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").touch()
    return tmp_path


def test_it_is_served_to_this_machine_alone(home: Path) -> None:
    outcome = Outcome(start(install(home / "bin", None, None), home, "demo", "--dry-run", HOME=str(home)))
    assert outcome.exit_code == 0
    assert "router on http://127.0.0.1:8080" in outcome.output
    assert f"serve {home}/.cache/tpu-tgi/models/SmolLM2-135M-Instruct" in outcome.output


def test_options_count_for_more(home: Path) -> None:
    words = demo_arguments(["-p", "9000", "--hostname=0.0.0.0"], {"HOME": str(home)})
    assert words[2:] == ["-p", "9000", "--hostname=0.0.0.0"]
    assert demo_arguments([], {"HOME": str(home), "PORT": "81"})[2:] == ["--hostname", "127.0.0.1"]


def test_without_the_extra_it_says_which_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("json", "no_such_package"))
    with pytest.raises(
        InvalidSettingError, match=r"without no_such_package: `pip install 'tpu-tgi\[demo\]'` would work"
    ):
        demo_arguments([], {"HOME": str(tmp_path)})


def test_its_help_says_what_it_serves(home: Path) -> None:
    outcome = Outcome(start(install(home / "bin", None, None), home, "demo", "--help", HOME=str(home)))
    assert outcome.exit_code == 0
    assert "Usage: tpu-tgi demo [OPTIONS]" in outcome.output
    assert "SmolLM2-135M-Instruct" in outcome.output
