"""What can be said of the image without building it."""

import re
import subprocess
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from image.repository import PROGRAMS, ROOT, project

DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENTERS = {
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "hatch_build.py",
    "locks/packages.lock",
    "proto/messages.proto",
    "server/text_generation_server/cli.py",
    "launcher_patch/tpu_tgi/cli.py",
}
STAYS_OUT = {
    ".env",
    ".git/config",
    ".venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so",
    "models/SmolLM2-135M-Instruct/model.safetensors",
    "data/hub/token",
    "docs/deploy/.env",
    "tests/conftest.py",
    "tpu_tgi.egg-info/PKG-INFO",
    "server/text_generation_server/__pycache__/cli.cpython-311.pyc",
    "server/text_generation_server/pb/messages_pb2.py",
}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `make`, which prints the words of `docker build` in the place of building."""
    command = ["make", "--no-print-directory", "--silent", "DOCKER_BUILD=echo", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    outcome = subprocess.run(
        [PROGRAMS / "hadolint", "--no-color", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_only_sources_go_to_the_builder(tmp_path: Path) -> None:
    for name in ENTERS | STAYS_OUT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    sent = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    # Docker sends the Dockerfile in any case.
    assert sent - {"Dockerfile"} == ENTERS


def test_the_builder_is_sent_what_the_dockerfile_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    sent = exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().splitlines())
    assert names
    assert [name for name in names if not any(Path(name) in (Path(s), *Path(s).parents) for s in sent)] == []


def test_every_base_image_is_a_build_argument() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    stages = {"packages", "packages-${DEVICE}"}
    assert set(bases) == {"${TGI_IMAGE}", "${ROUTER_IMAGE}", "${PYTHON_IMAGE}"} | stages


def test_no_token_is_asked_for_while_building() -> None:
    """What is an ARG or an ENV can be read from the image by everybody who has it."""
    declared = re.findall(r"^(?:ARG|ENV|    )\s*(\w+)=?", DOCKERFILE, re.MULTILINE)
    assert "HF_HOME" in declared
    assert [name for name in declared if "TOKEN" in name.upper()] == []


@pytest.mark.parametrize("target", ["tpu-tgi", "tpu-tgi-v2"])
def test_a_release_is_refused_without_digests(target: str) -> None:
    outcome = make(target, "RELEASE=1", "TGI_IMAGE=tgi:3.3.7@sha256:1", "PYTHON_IMAGE=python:3.11")
    assert outcome.returncode != 0
    assert "PYTHON_IMAGE=NAME:TAG@sha256:" in outcome.stderr


def test_a_release_is_built_from_the_digests_that_are_given() -> None:
    outcome = make(
        "tpu-tgi", "RELEASE=1", "TGI_IMAGE=tgi:3.3.7@sha256:1", "PYTHON_IMAGE=python:3.11@sha256:2"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "--build-arg TGI_IMAGE --build-arg ROUTER_IMAGE --build-arg PYTHON_IMAGE" in outcome.stdout


def test_an_image_for_cpus_has_a_name_of_its_own() -> None:
    outcome = make("tpu-tgi", "DEVICE=cpu").stdout
    assert "--build-arg DEVICE=cpu" in outcome
    assert f":{project()['project']['version']}-cpu --tag" in outcome
    assert ":latest-cpu ." in outcome


def test_the_second_image_differs_by_the_router_alone() -> None:
    first, second = make("tpu-tgi", "--dry-run").stdout, make("tpu-tgi-v2", "--dry-run").stdout
    assert second.replace("-v2", "") == first
    assert "-v2" in second
