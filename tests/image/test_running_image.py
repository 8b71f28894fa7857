"""The image as its users run it, where Docker and an image from `make tpu-tgi` are at hand.

`make tpu-tgi` needs the official TGI image. tests/stock_router shows the same programs without a container.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import httpx
import pytest
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from image.repository import ROOT, image_name, project
from tpu_tgi import demo_model

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
MOUNTED = "/data/model"
TOKEN = "hf_aTokenThatNobodyHas"
STOP_SECONDS = 10
START_SECONDS = 600
KILL_THE_SHARD = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if any(word.endswith(b"text-generation-server") for word in words) and b"serve" in words:
        os.kill(int(process.name), signal.SIGKILL)
"""

Run = Callable[..., Container]


@pytest.fixture(scope="module")
def engine() -> Any:
    try:
        found = docker.from_env()
        found.ping()
    except DockerException as error:
        pytest.skip(f"Docker does not answer: {error}")
    return found


IMAGES = {
    "": "make tpu-tgi",
    "-v2": "make tpu-tgi-v2",
    "-cpu": "make tpu-tgi DEVICE=cpu",
    "-v2-cpu": "make tpu-tgi-v2 DEVICE=cpu",
}
"""The ends of their tags, and what builds them."""


@pytest.fixture(scope="module", params=IMAGES, ids=lambda end: f"image{end}")
def image(request: pytest.FixtureRequest, engine: Any) -> Any:
    name = f"{image_name()}:{project()['project']['version']}{request.param}"
    try:
        return engine.images.get(name)
    except ImageNotFound:
        pytest.skip(f"{name} is not here: `{IMAGES[request.param]}` builds it")


@pytest.fixture(scope="module")
def run(engine: Any, image: Any) -> Iterator[Run]:
    """Starts containers, which are removed in the end."""
    started: list[Container] = []

    def start(*arguments: str, **options: Any) -> Container:
        started.append(engine.containers.run(image, list(arguments), detach=True, **options))
        return started[-1]

    yield start
    for container in started:
        container.remove(force=True)


@pytest.fixture(scope="module")
def start_service(run: Run) -> Callable[..., Container]:
    """Starts the service with the demo model, and returns when its health check has succeeded."""
    demo_model.prepare(MODEL)

    def start(**options: Any) -> Container:
        container = run(
            *("--model-id", MOUNTED),
            environment={"HF_TOKEN": TOKEN, "HF_BATCH_SIZE": "2", "HF_SEQUENCE_LENGTH": "64"},
            volumes={str(MODEL.resolve()): {"bind": MOUNTED, "mode": "ro"}},
            ports={"80/tcp": ("127.0.0.1", None)},
            **options,
        )
        deadline = time.monotonic() + START_SECONDS
        while container.health != "healthy":
            assert container.status in ("created", "running"), log(container)
            assert time.monotonic() < deadline, log(container)
            time.sleep(1)
            container.reload()
        return container

    return start


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Container]) -> Container:
    return start_service()


def log(container: Container) -> str:
    text: bytes = container.logs()
    return text.decode()


def post(container: Container, route: str) -> httpx.Response:
    (binding,) = container.ports["80/tcp"]
    body = {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 20}}
    return httpx.post(f"http://127.0.0.1:{binding['HostPort']}{route}", json=body, timeout=60)


def test_both_routes_give_the_same_text(service: Container) -> None:
    whole = post(service, "/generate")
    assert whole.status_code == 200, whole.text
    lines = post(service, "/generate_stream").text.splitlines()
    events = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
    assert len(events) == 20
    assert "".join(event["token"]["text"] for event in events) == whole.json()["generated_text"]
    assert "subfield of artificial intelligence" in whole.json()["generated_text"]


def test_the_token_is_in_no_log(service: Container) -> None:
    assert "Loaded llama" in log(service)
    assert TOKEN not in log(service)


def test_the_image_holds_no_token(image: Any) -> None:
    kept = json.dumps([image.history(), image.attrs])
    assert "HF_HOME" in kept
    assert "TOKEN" not in kept.upper()


def test_labels_say_what_the_image_is(image: Any) -> None:
    assert image.labels["org.opencontainers.image.version"] == project()["project"]["version"]
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "text-generation-inference:" in image.labels["tpu-tgi.launcher.image"]


def test_there_are_no_cuda_packages(service: Container) -> None:
    _, output = service.exec_run(
        ["python3", "-c", "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"]
    )
    names = output.decode().split()
    assert "torch" in names
    assert [name for name in names if name.startswith(("nvidia", "triton"))] == []
    assert ("libtpu" in names) == (service.image.labels["tpu-tgi.device"] == "tpu")


def test_a_shard_that_is_killed_ends_the_container_with_an_error(service: Container) -> None:
    assert service.exec_run(["python3", "-c", KILL_THE_SHARD]).exit_code == 0
    assert service.wait(timeout=60)["StatusCode"] != 0


def test_a_stop_signal_ends_it_in_time_without_root(start_service: Callable[..., Container]) -> None:
    container = start_service(user="tgi")
    started = time.monotonic()
    container.stop(timeout=60)
    assert time.monotonic() - started < STOP_SECONDS
    assert container.wait()["StatusCode"] == 0, log(container)


def test_a_user_that_the_image_does_not_know_is_served(start_service: Callable[..., Container]) -> None:
    assert post(start_service(user="4321:4321"), "/generate").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model-id", MOUNTED, "--max-total-tokens", "many"], "--max-total-tokens"),
        (["--model-id", MOUNTED, "--no-such-option"], "--no-such-option"),
        (["--model-id", "/data/nowhere"], "/data/nowhere"),
    ],
    ids=["value", "option", "model"],
)
def test_a_wrong_parameter_ends_it_with_the_reason(run: Run, arguments: list[str], said: str) -> None:
    container = run(*arguments)
    assert container.wait(timeout=120)["StatusCode"] != 0
    assert said in log(container)


def test_help_lists_the_options_of_the_launcher(run: Run) -> None:
    container = run("--help")
    assert container.wait(timeout=120)["StatusCode"] == 0
    assert "--max-batch-prefill-tokens" in log(container)
    assert "--cuda-memory-fraction" in log(container)
