"""The examples for systemd, nginx and Caddy, by these programs themselves."""

import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from front.conftest import StartFront, model_directory, start_front
from front.launched import free_port
from front.running_front import wait_until
from image.repository import EXAMPLES
from tpu_tgi.cli import serve

__all__ = ["model_directory", "start_front"]


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{name} is not here: Debian has a package for it, which `.ci/run` installs for root")
    return found


def typer_command() -> Any:
    return typer.main.get_command(serve)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """For this machine, signed by itself."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


@contextmanager
def running(command: list[str], url: str, chain: Path) -> Iterator[httpx.Client]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with httpx.Client(
        base_url=url, verify=ssl.create_default_context(cafile=str(chain)), timeout=20
    ) as client:
        try:
            wait_until(lambda: process.poll() is not None or answers(client), 20)
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            yield client
        finally:
            process.terminate()
            process.wait(10)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/info").status_code == 200
    except httpx.TransportError:
        return False


def check(client: httpx.Client) -> None:
    """A stream arrives token by token, and metrics are kept from others."""
    moments = []
    body = {"inputs": "hello eos-8", "parameters": {"max_new_tokens": 20}}
    with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        moments = [time.monotonic() for line in response.iter_lines() if line]
    assert len(moments) == 8
    assert moments[-1] - moments[0] > 0.5
    assert client.get("/metrics").status_code == 403
    # Caddy 2.6 says 502 for what it will not pass on.
    too_large = client.post("/generate", json={"inputs": "x" * 3_000_000})
    assert too_large.status_code in (413, 502)


def test_streams_pass_through_nginx(
    start_front: StartFront, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    nginx, port = program("nginx"), free_port()
    chain, key = certificate
    with start_front(shard={"step_seconds": 0.1}) as front:
        server = (EXAMPLES / "nginx.conf").read_text()
        server = server.replace("/etc/ssl/llm.example.org.pem", str(chain))
        server = server.replace("/etc/ssl/llm.example.org.key", str(key))
        server = server.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        server = server.replace("127.0.0.1:8080", f"127.0.0.1:{front.port}")
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
            f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n{server}}}\n"
        )
        with running([nginx, "-c", str(configuration)], f"https://localhost:{port}", chain) as client:
            check(client)


def test_streams_pass_through_caddy(
    start_front: StartFront, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    caddy, port = program("caddy"), free_port()
    chain, key = certificate
    with start_front(shard={"step_seconds": 0.1}) as front:
        site = (EXAMPLES / "Caddyfile").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{front.port}")
        site = site.replace("llm.example.org {", f"localhost:{port} {{\n\ttls {chain} {key}", 1)
        configuration = tmp_path / "Caddyfile"
        configuration.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + site)
        command = [caddy, "run", "--adapter", "caddyfile", "--config", str(configuration)]
        with running(command, f"https://localhost:{port}", chain) as client:
            check(client)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "tpu-tgi.service"
    # It looks for the program, too.
    unit.write_text(
        (EXAMPLES / "tpu-tgi.service").read_text().replace("/opt/tpu-tgi/bin/tpu-tgi", "/bin/true")
    )
    command = [program("systemd-analyze"), "verify", "--man=no", str(unit)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.returncode, [line for line in outcome.stderr.splitlines() if "tpu-tgi" in line]) == (
        0,
        [],
    )


def test_the_unit_calls_what_there_is_and_waits_long_enough() -> None:
    unit = dict(re.findall(r"^(\w+)=(.*)$", (EXAMPLES / "tpu-tgi.service").read_text(), re.MULTILINE))
    words = unit["ExecStart"].split()
    parameters = {option for one in typer_command().params for option in one.opts}
    assert {word for word in words if word.startswith("--")} <= parameters
    (grace,) = (one.default for one in typer_command().params if one.name == "graceful_termination_timeout")
    assert int(unit["TimeoutStopSec"]) > grace
