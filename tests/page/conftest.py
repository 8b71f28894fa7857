"""A real browser, and the page in front of a fake shard."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from front.conftest import front, model_directory, start_front
from front.running_front import RunningFront

__all__ = ["front", "model_directory", "start_front"]

WIDE, NARROW = (1440, 900), (390, 844)

# How long a browser on a busy machine may take for what is done at once.
PATIENCE_MILLISECONDS = 15_000.0


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not longer than these tests: while Playwright runs, no other event loop may run in the main thread."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not in PATH: `apt-get install chromium` (`.ci/run` does so for root)")
    # Chromium's sandbox does not work for root, and often not in containers.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and what the browser had to say about it.

    Attributes:
        asked: the addresses of everything that was loaded or called.
        complaints: errors in scripts, and what the console shows as errors.
    """

    page: Page
    context: BrowserContext
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def wait_until_ready(self) -> None:
        self.page.wait_for_selector("#state[data-state=ready]")

    def send(self, text: str) -> None:
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def finished(self) -> str:
        """The text of the last answer, once it is whole."""
        self.page.wait_for_selector("#messages li:last-child .foot")
        return self.answer

    @property
    def answer(self) -> str:
        return self.page.inner_text("#messages li.message-assistant:last-child .text")

    def snippet(self, language: str) -> str:
        """The last request, as the page writes it for `curl` or `python`."""
        if not self.page.is_visible("#snippet"):
            self.page.click("#request summary")
        self.page.click(f"[data-snippet={language}]")
        return self.page.inner_text("#snippet")


@contextmanager
def visit(
    browser: Browser, url: str, size: tuple[int, int] = WIDE, theme: Any = "light", **options: Any
) -> Iterator[Visit]:
    """Opens `url` in a window of its own, with nothing remembered; `options` are those of Playwright's contexts."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, **options)
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    page = context.new_page()
    visit = Visit(page, context)
    page.on("request", lambda request: visit.asked.append(request.url))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda line: visit.complaints.append(line.text) if line.type == "error" else None)
    page.goto(url)
    try:
        yield visit
    finally:
        context.close()


@contextmanager
def visited(browser: Browser, front: RunningFront, **options: Any) -> Iterator[Visit]:
    with visit(browser, f"http://127.0.0.1:{front.port}/", **options) as opened:
        opened.wait_until_ready()
        yield opened


def keep_screenshot(page: Page, name: str) -> None:
    """Where somebody wants to look: in the directory SCREENSHOTS, if there is one."""
    if directory := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(directory) / f"{name}.png")
