"""Tiny programs that stand for TGI's in PATH, and runs of `tpu-tgi` that see nothing else."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHER = """\
#!/bin/sh
if [ "$1" = --version ]; then echo 'text-generation-launcher {version}'; exit; fi
if [ "$1" = --help ]; then echo 'Usage of the stock launcher: --quantize'; exit; fi
echo "pid $$"
for word in "$@"; do echo "argument $word"; done
env | sed 's/^/variable /'
trap 'echo stopped; exit 7' TERM
if [ -n "$FAKE_RUNS" ]; then echo running; while :; do sleep 0.05; done; fi
exit ${{FAKE_EXIT_CODE:-0}}
"""

ROUTER = """\
#!/bin/sh
echo '{name} {version}'
"""


def install(
    directory: Path, launcher: str | None = "3.3.7", router: str | None = "text-generation-router-v3 3.3.7"
) -> Path:
    """Puts a launcher and a router of these versions into `directory`, which is for PATH; None leaves one out."""
    directory.mkdir(exist_ok=True)
    if launcher is not None:
        write(directory / "text-generation-launcher", LAUNCHER.format(version=launcher))
    if router is not None:
        name, version = router.split()
        write(directory / "text-generation-router", ROUTER.format(name=name, version=version))
    return directory


def write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def start(programs: Path, cwd: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    """`tpu-tgi` in the directory `cwd`, in an environment with these variables and no other settings."""
    environment = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
    environment |= {"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "tpu_tgi", *options],
        cwd=cwd,
        env=environment | {"HF_HUB_OFFLINE": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Outcome:
    """What a run that has ended printed, and its exit code."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.output, _ = process.communicate(timeout=30)
        self.exit_code = process.returncode
        self.lines = self.output.splitlines()

    @property
    def arguments(self) -> list[str]:
        return [line.removeprefix("argument ") for line in self.lines if line.startswith("argument ")]

    @property
    def variables(self) -> dict[str, str]:
        found = [line.removeprefix("variable ") for line in self.lines if line.startswith("variable ")]
        return dict(line.split("=", 1) for line in found if "=" in line)

    def option(self, flag: str) -> str:
        """The value of an option that the launcher was started with exactly once."""
        assert self.arguments.count(flag) == 1, self.output
        return self.arguments[self.arguments.index(flag) + 1]
