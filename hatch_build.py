"""Build hook: makes Python messages, stubs and services from `proto/` whenever the package is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "text_generation_server/pb"
SOURCES = ("messages.proto", "service_v2.proto", "service_v3.proto")


def generate(root: Path) -> Path:
    """Replaces `server/text_generation_server/pb` by modules made from `proto/`; returns that directory.

    protoc sees the sources under the virtual path `text_generation_server/pb`, because that path becomes
    both the import path of the modules and the name of the file in the descriptor pool, which must be unique.
    Raises RuntimeError with protoc's own message if it refuses a source.
    """
    server = root / "server"
    package = server / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    for stale in package.glob("*.py*"):
        stale.unlink()
    (package / "__init__.py").write_text('"""Generated from proto/ by hatch_build.py."""\n')
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--plugin=protoc-gen-mypy={find_plugin('protoc-gen-mypy')}",
        f"--plugin=protoc-gen-mypy_grpc={find_plugin('protoc-gen-mypy_grpc')}",
        f"--proto_path={PACKAGE}={root / 'proto'}",
        f"--python_out={server}",
        f"--grpc_python_out={server}",
        f"--mypy_out=quiet:{server}",
        f"--mypy_grpc_out=quiet:{server}",
        *(f"{PACKAGE}/{source}" for source in SOURCES),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode != 0:
        raise RuntimeError(f"protoc could not compile proto/:\n{outcome.stderr}")
    return package


def find_plugin(name: str) -> str:
    """The path of a protoc plugin: in PATH (pip's build environment) or beside this interpreter (a venv)."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(beside)]))
    if found is None:
        raise RuntimeError(f"{name} is not installed; pip install mypy-protobuf")
    return found


class GenerateMessages(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for wheels and for editable installs; a wheel made from an sdist generates them again."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))
