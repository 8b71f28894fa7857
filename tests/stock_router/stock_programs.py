"""The programs of TGI that these tests drive, found in PATH, and the environment in which they start.

They are linked to libpython, and the router imports transformers in it to read the tokenizer. So they must be
built with the Python version that runs the tests (PYO3_PYTHON), whose library and packages they are shown here.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

LAUNCHER = "text-generation-launcher"
ROUTERS = {"v3": "text-generation-router", "v2": "text-generation-router-v2"}
"""Names under which cargo builds the routers of the two wire versions."""

SETTINGS_OF_A_SERVICE = ("HF_", "MAX_", "LOG_", "ATTENTION", "PREFIX_CACHING", "CUDA_VISIBLE_DEVICES")


def need(*programs: str) -> None:
    """Skips the test unless all of these are in PATH."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not in PATH: build it from huggingface/text-generation-inference v3.3.7, "
                "outside of this checkout, with PYO3_PYTHON set to the Python that runs the tests"
            )


def program_directory(directory: Path, router: str, server: list[str]) -> Path:
    """Creates a directory for the front of PATH.

    Its `text-generation-router` is the router of the given version, because the launcher knows no other name,
    and its `text-generation-server` runs the command `server`.
    """
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    path = shutil.which(ROUTERS[router])
    assert path is not None
    (programs / ROUTERS["v3"]).symlink_to(Path(path).resolve())
    script = programs / "text-generation-server"
    script.write_text(f'#!/bin/sh\nexec {" ".join(server)} "$@"\n')
    script.chmod(0o755)
    return programs


def environment(variables: dict[str, str], front_of_path: Path | None = None) -> dict[str, str]:
    """This process's, less what would set up a service, plus `variables` and what the embedded Python needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_OF_A_SERVICE)}
    path = kept["PATH"] if front_of_path is None else os.pathsep.join([str(front_of_path), kept["PATH"]])
    libraries = [sysconfig.get_config_var("LIBDIR"), kept.get("LD_LIBRARY_PATH")]
    tests = str(Path(__file__).parents[1])
    return (
        kept
        | {
            "PATH": path,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PYTHONPATH": os.pathsep.join([tests, *filter(None, sys.path)]),
            "HF_HUB_OFFLINE": "1",
        }
        | variables
    )
