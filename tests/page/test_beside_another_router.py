"""The page on a port of its own, in front of a router that has none."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from front.conftest import StartFront
from front.launched import free_port
from front.running_front import wait_until
from page.conftest import visit
from stock_router.stock_programs import LAUNCHER, ROUTERS, environment, need, program_directory
from stock_router.stock_service import start
from wire.shard_process import COMMAND, spelling_checkpoint


@contextmanager
def proxied(router_port: int, *options: str) -> Iterator[str]:
    """The address of the page in front of a router on a port."""
    port = free_port()
    command = [sys.executable, "-m", "tpu_tgi.page.proxy", "--hostname", "127.0.0.1", "--port", str(port)]
    command += ["--router", f"http://127.0.0.1:{router_port}", *options]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url), 20)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        httpx.get(f"{url}/page/facts.json")
    except httpx.ConnectError:
        return False
    return True


def test_answers_stream_through_and_stop_through(browser: Browser, start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.05}, page=False) as front,
        proxied(front.port, "--slots", "4") as url,
        visit(browser, f"{url}/") as opened,
    ):
        opened.wait_until_ready()
        expect(opened.page.locator("#of-slots")).to_have_text("of 4 are busy")
        opened.send("hello")
        opened.page.wait_for_selector(".text.writing .token")
        opened.page.get_by_role("button", name="Stop").click()
        opened.finished()
        wait_until(lambda: front.shard.is_empty)
        opened.send("again eos-3")
        assert opened.finished() == "é1 é2"
        assert opened.complaints == []


def test_answers_and_refusals_are_those_of_the_router(start_front: StartFront) -> None:
    with start_front(api_key="secret-1") as front, proxied(front.port) as url:
        key = {"authorization": "Bearer secret-1"}
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/info", {}),
            ("GET", "/health?x=%2F", {}),
            ("GET", "/nothing", {}),
            ("DELETE", "/generate", {}),
            ("POST", "/generate", {"json": {"inputs": "a"}}),
            ("POST", "/generate", {"json": {"inputs": "a é eos-2"}, "headers": key}),
            ("POST", "/generate_stream", {"json": {"inputs": "a é eos-2"}, "headers": key}),
            ("POST", "/generate", {"content": b"{", "headers": key}),
        ]
        for method, path, options in asked:
            direct = front.client.request(method, path, **options)
            passed = httpx.request(method, f"{url}{path}", **options)
            assert (passed.status_code, passed.text) == (direct.status_code, direct.text), path
            kept = {"content-type", "allow", "x-compute-type", "x-prompt-tokens", "cache-control"}
            assert {name: passed.headers.get(name) for name in kept} == {
                name: direct.headers.get(name) for name in kept
            }


def test_before_there_is_a_router_the_page_says_that_it_is_starting(browser: Browser) -> None:
    with proxied(free_port()) as url, visit(browser, f"{url}/") as opened:
        answer = httpx.get(f"{url}/info")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        expect(opened.page.locator("#warming-title")).to_have_text("The service is starting")


@pytest.mark.parametrize("router", ["v3", "v2"])
def test_the_stock_programs_with_a_page(browser: Browser, tmp_path: Path, router: str) -> None:
    need(LAUNCHER, ROUTERS[router])
    programs = program_directory(tmp_path, router, COMMAND)
    port, page_port = free_port(), free_port()
    command = [sys.executable, "-m", "tpu_tgi", str(spelling_checkpoint(tmp_path / "model"))]
    command += ["--hostname", "127.0.0.1", "--port", str(port), "--page-port", str(page_port)]
    command += [
        "--max-batch-size",
        "3",
        "--max-total-tokens",
        "128",
        "--shard-uds-path",
        str(tmp_path / "shard"),
        "--usage-stats",
        "off",
    ]
    launcher = start(command, tmp_path, environment({}, programs))
    url = f"http://127.0.0.1:{page_port}"
    try:
        wait_until(lambda: answers(url), 30)
        with visit(browser, f"{url}/") as opened:
            opened.page.wait_for_selector("#state[data-state=ready]", timeout=120_000)
            expect(opened.page.locator("#of-slots")).to_have_text("of 3 are busy")
            opened.page.click(".modes [data-mode=completion]")
            opened.send("abc")
            assert opened.finished().startswith("abcdef")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.exit_code(60) == 0
        wait_until(lambda: not answers(url), 10)
    finally:
        launcher.end()
