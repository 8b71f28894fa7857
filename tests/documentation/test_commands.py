"""Every command that README and docs print runs here, or stands below with the reason why it cannot."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from documentation.repository import ROOT, page
from documentation.test_pages import PAGES
from front.conftest import front, model_directory
from front.running_front import RunningFront
from launcher.programs import Outcome, install, start

__all__ = ["front", "model_directory"]

# The examples of docs/clients have a test of their own, tests/clients/test_pages.py.
READ = [name for name in [*PAGES, "CONTRIBUTING.md", "SECURITY.md"] if not name.startswith("docs/clients/")]

NOT_HERE = {
    "docker": "needs Docker and the image: tests/image runs what can be run without",
    "sudo": "changes the machine",
    "journalctl": "needs systemd",
    "mkdir": "belongs to the line after it",
    "uv": "installs packages",
    "git": "needs the network",
    "gcloud": "needs an account of Google Cloud",
    "pip": "installs packages",
    "text-generation-launcher": "tests/stock_router runs it, where it is in PATH",
    "text-generation-benchmark": "needs a terminal and a running shard",
    "cd": "tests/documentation/test_monitoring.py runs promtool",
}

NOT_INSTALLED = {
    "benchmarks.grammar_libraries": "compares with a library that the line before it installs",
    "image.stand_ins": "needs root, Docker, debootstrap, and minutes",
    "http.server": "serves until it is stopped",
}

MODELS = re.compile(r"\bMODEL\b|/path/to/checkpoint|[\w-]+/Llama-3.1-8B-Instruct")


def commands() -> list[tuple[str, str]]:
    """Page and command, which may have several lines."""
    found = []
    for name in READ:
        text = page(name)
        fences = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
        fenced = [code for language, code in fences.findall(text) if language in ("", "bash")]
        rest = fences.sub("", text)
        indented = re.findall(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", rest)
        for block in [*fenced, *indented]:
            joined = re.sub(r"\\\n", " ", block)
            found += [
                (name, line.strip()) for line in joined.splitlines() if re.match(r" *[\w./]+[ =\w]", line)
            ]
    return list(dict.fromkeys(found))


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """Variables and words of a command, without its comment."""
    words = shlex.split(command, comments=True)
    count = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


@pytest.mark.parametrize(("name", "command"), commands())
def test_a_command_that_is_printed_runs(
    front: RunningFront, model_directory: Path, tmp_path: Path, name: str, command: str
) -> None:
    variables, words = words_of(command)
    program = Path(words[0]).name
    if (
        reason := NOT_HERE.get(program)
        or next((NOT_INSTALLED[word] for word in words if word in NOT_INSTALLED), None)
    ) is not None:
        pytest.skip(reason)
    if program == "make":
        check_target(words[1:])
    elif program == "curl":
        url = [word.replace("127.0.0.1:8080", f"127.0.0.1:{front.port}") for word in words]
        run(["curl", "--silent", "--fail", "--show-error", *url[1:]])
    elif words[:2] == ["tpu-tgi", "plan"]:
        # It compiles for minutes, and tests/plan runs it: that it knows these options is checked.
        help_text = run([sys.executable, "-m", "tpu_tgi", "plan", "--help"])
        assert all(word in help_text for word in words if word.startswith("--"))
    elif program == "tpu-tgi":
        options = [MODELS.sub(str(model_directory), word) for word in words[1:]]
        outcome = Outcome(
            start(install(tmp_path / "bin", None, None), tmp_path, *options, "--dry-run", **variables)
        )
        assert outcome.exit_code == 0, outcome.output
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / path).exists() for path in words[3:])
    elif words[:2] == ["python", "-m"] or words[1:2] == ["-m"]:
        check_module(words[2:])
    else:
        pytest.fail(f"{name} prints a command of which nobody knows whether it works: {command}")


def check_target(words: list[str]) -> None:
    run(["make", "--dry-run", "DOCKER_BUILD=true", *words])


def check_module(words: list[str]) -> None:
    """A benchmark takes minutes: that it is there, and knows these options, is checked."""
    module, *arguments = words
    command = [sys.executable, "-m", module]
    if arguments and not arguments[0].startswith("-") and module.endswith("replay"):
        command.append(arguments[0])
    help_text = run([*command, "--help"])
    assert all(word in help_text for word in arguments if word.startswith("--"))


def run(command: list[str]) -> str:
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def test_reasons_are_given_for_commands_that_there_are() -> None:
    programs = {Path(words_of(command)[1][0]).name for _, command in commands()}
    assert set(NOT_HERE) <= programs
