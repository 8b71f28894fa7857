"""The locked versions are what pyproject.toml allows. When this fails: `make lock`."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from image.repository import ROOT, project

ADVICE = "locks/*.lock and pyproject.toml differ: run `make lock`"


def locked(file: str) -> dict[str, Version]:
    """The versions in a lock or requirements file, by normalised name."""
    pins = re.findall(r"^([\w.\-]+)==([^\s\\]+)", (ROOT / "locks" / file).read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def not_met(wanted: list[str], pins: dict[str, Version]) -> list[str]:
    requirements = [Requirement(text) for text in wanted]
    return [
        f"{requirement}, locked: {pins.get(canonicalize_name(requirement.name))}"
        for requirement in requirements
        if not (pin := pins.get(canonicalize_name(requirement.name))) or pin not in requirement.specifier
    ]


def test_what_the_project_requires_is_locked() -> None:
    wanted = project()["project"]["dependencies"]
    assert not_met(wanted, locked("packages.lock") | locked("torch.txt")) == [], ADVICE
    assert not_met(project()["project"]["optional-dependencies"]["tpu"], locked("tpu.lock")) == [], ADVICE


def test_what_development_needs_is_locked_in_the_versions_of_the_image() -> None:
    wanted = project()["project"]["dependencies"] + project()["project"]["optional-dependencies"]["dev"]
    development, packages = locked("development.lock"), locked("packages.lock")
    assert not_met(wanted, development | locked("torch.txt")) == [], ADVICE
    assert {
        name: version for name, version in development.items() if packages.get(name, version) != version
    } == {}


def test_what_builds_the_wheel_is_locked() -> None:
    assert not_met(project()["build-system"]["requires"], locked("build.lock")) == [], ADVICE


def test_generated_messages_find_the_grpcio_that_they_need() -> None:
    """Generated code refuses a grpcio older than the generator, and a protobuf older than its compiler."""
    tools, packages = locked("build.lock"), locked("packages.lock")
    assert packages["grpcio"] >= tools["grpcio-tools"]
    assert packages["protobuf"] >= tools["protobuf"]


def test_no_library_of_a_device_is_locked_for_every_image() -> None:
    """CUDA's come with PyPI's torch, which is 4 GB larger with them; libtpu has a lock of its own."""
    of_devices = ("nvidia-", "triton", "torch", "libtpu")
    names = locked("packages.lock")
    assert [name for name in names if name.startswith(of_devices) and name != "torch-xla"] == []


def test_torch_is_the_one_that_torch_xla_was_built_for() -> None:
    assert locked("torch.txt")["torch"].release[:2] == locked("packages.lock")["torch-xla"].release[:2]
    assert f'version = "{locked("torch.txt")["torch"]}"' in (ROOT / "locks" / "uv.toml").read_text()


@pytest.mark.parametrize("lock", ["packages.lock", "tpu.lock", "build.lock"])
def test_every_locked_package_has_a_hash(lock: str) -> None:
    text = (ROOT / "locks" / lock).read_text()
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked(lock))
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", [path.name for path in Path(ROOT / "locks").iterdir()])
def test_every_file_beside_the_locks_is_used(name: str) -> None:
    assert f"locks/{name}" in (ROOT / "Dockerfile").read_text() + (ROOT / "Makefile").read_text()


def test_the_tpu_compiler_that_checks_is_the_one_that_runs_and_that_jax_asks_for() -> None:
    (runs,) = project()["project"]["optional-dependencies"]["tpu"]
    (checks,) = project()["dependency-groups"]["tpu-check"]
    asked_for = [
        Requirement(text) for text in metadata.requires("jax") or [] if Requirement(text).name == "libtpu"
    ]
    assert runs == checks
    assert [requirement.specifier for requirement in asked_for] == [Requirement(runs).specifier]
    assert locked("tpu.lock")["libtpu"] in Requirement(runs).specifier
