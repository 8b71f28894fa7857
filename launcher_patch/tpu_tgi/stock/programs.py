"""The stock programs in PATH, their versions, and what they need of the environment."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from text_generation_server.errors import InvalidSettingError
from text_generation_server.wire.limits import WireVersion

LAUNCHER = "text-generation-launcher"
ROUTER = "text-generation-router"

ANSWER_SECONDS = 30

Version = tuple[int, ...]


@dataclass(frozen=True)
class StockPrograms:
    """A launcher and the router that it will find.

    Attributes:
        launcher: its path.
        wire: what the router speaks with the shard.
        router_needs_lengths: it assumes lengths that it was not told; others ask the shard.
        environment: in which both can run.
    """

    launcher: str
    launcher_version: Version
    router_version: Version
    wire: WireVersion
    environment: Mapping[str, str]

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Self | None:
        """None if one of them is not in PATH. Raises InvalidSettingError if one is there and cannot run."""
        search = environment.get("PATH", os.defpath)
        launcher, router = shutil.which(LAUNCHER, path=search), shutil.which(ROUTER, path=search)
        if launcher is None or router is None:
            return None
        shown = with_python(launcher, environment)
        _, launcher_version = ask_version(launcher, shown)
        name, router_version = ask_version(router, shown)
        # The name ends with the wire's version since there are two routers, 2.3; before, v3 was an experiment
        # from 2.1 on, whose messages differ from today's in what this shard ignores.
        wire = WireVersion.V2 if name.endswith("-v2") or router_version < (2, 3) else WireVersion.V3
        return cls(launcher, launcher_version, router_version, wire, shown)

    @property
    def router_needs_lengths(self) -> bool:
        """Whether the router assumes lengths that it was not told (protocol section 6.7)."""
        return self.wire is WireVersion.V2 or self.router_version < (2, 4)

    def __str__(self) -> str:
        launcher, router = (
            ".".join(map(str, version)) for version in (self.launcher_version, self.router_version)
        )
        return f"{LAUNCHER} {launcher} and {ROUTER} {router} ({self.wire.name.lower()})"


def ask_version(program: str, environment: Mapping[str, str]) -> tuple[str, Version]:
    """What `--version` says: `text-generation-router-v3 3.3.6-dev0`. Raises InvalidSettingError."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
        said = answer.stdout + answer.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    found = re.search(r"^(text-generation-\S+) (\d+)\.(\d+)\.(\d+)", said, re.MULTILINE)
    if found is None:
        raise InvalidSettingError(
            f"`{program} --version` does not tell its version: {' '.join(said.split()) or 'no output'}. "
            "Repair it, take it out of PATH, or use `--embedded`"
        )
    return found[1], tuple(map(int, found.groups()[1:]))


def with_python(program: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with this Python's library and packages if the program embeds the same version of Python.

    Launcher and router are linked to libpython, and the router imports transformers in it.
    """
    changed = dict(environment)
    library = linked_python(program, environment)
    if library is None or library != sysconfig.get_config_var("INSTSONAME"):
        return changed
    paths = sysconfig.get_paths()
    for variable, directories in (
        ("LD_LIBRARY_PATH", [sysconfig.get_config_var("LIBDIR")]),
        ("PYTHONPATH", [paths["purelib"], paths["platlib"]]),
    ):
        known = [entry for entry in changed.get(variable, "").split(os.pathsep) if entry]
        known += [entry for entry in dict.fromkeys(directories) if entry not in known]
        changed[variable] = os.pathsep.join(known)
    return changed


def linked_python(program: str, environment: Mapping[str, str]) -> str | None:
    """The libpython that an executable asks for, such as `libpython3.11.so.1.0`."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return None
    answer = subprocess.run([ldd, program], env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"libpython[\d.]+\.so[\d.]*", answer.stdout)
    return Path(found[0]).name if found else None
