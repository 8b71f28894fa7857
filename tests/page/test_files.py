"""The page as HTTP: who gets it, and who does not."""

from pathlib import Path

import httpx
import pytest

from front.conftest import StartFront
from front.launched import launched
from page.conftest import model_directory, start_front

__all__ = ["model_directory", "start_front"]

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_browsers_get_the_page_and_probes_the_health(start_front: StartFront) -> None:
    with start_front() as front:
        page = front.client.get("/", headers=BROWSER)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for accept in ("*/*", "application/json", ""):
            probe = front.client.get("/", headers={"accept": accept})
            assert (probe.status_code, probe.content) == (200, b"")
        assert front.client.post("/", headers=BROWSER, json={"inputs": "a eos-1"}).json()
        front.in_loop(front.shard.stop())
        assert front.client.get("/").status_code == 503
        assert front.client.get("/", headers=BROWSER).status_code == 200


def test_the_page_needs_no_key(start_front: StartFront) -> None:
    with start_front(api_key="secret-1") as front:
        assert front.client.get("/", headers=BROWSER).status_code == 200
        assert front.client.get("/page/facts.json").json()["needs_key"] is True


def test_it_can_be_switched_off(start_front: StartFront) -> None:
    with start_front(page=False) as front:
        assert front.client.get("/", headers=BROWSER).content == b""
        assert front.client.get("/page/main.js").status_code == 404


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nothing.js", "/page/../settings.py", "/page/%2e%2e/files.py"]
)
def test_nothing_but_the_files_of_the_page_is_served(start_front: StartFront, path: str) -> None:
    with start_front() as front:
        assert front.client.get(path).status_code == 404


def test_the_switch_counts_while_the_model_is_loaded(model_directory: Path, tmp_path: Path) -> None:
    environment = {"FAKE_WAITS_FOR": str(tmp_path / "never")}
    with launched(tmp_path, str(model_directory), "--page", "off", environment=environment) as running:
        running.wait_until_answering()
        answer = httpx.get(running.url, headers=BROWSER)
        assert (answer.status_code, answer.json()["status"]) == (503, "loading the model")
