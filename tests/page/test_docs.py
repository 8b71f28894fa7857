"""/docs/ in Chromium: every route, and a form to try it."""

import json

import pytest
from playwright.sync_api import Browser, expect

from front.conftest import StartFront
from page.conftest import keep_screenshot, visit
from tpu_tgi.router.routes import OPERATIONS


def test_every_route_is_there_and_can_be_tried(browser: Browser, start_front: StartFront) -> None:
    with (
        start_front(api_key="secret-1") as front,
        visit(browser, f"http://127.0.0.1:{front.port}/docs") as opened,
    ):
        expect(opened.page.locator(".opblock")).to_have_count(len(OPERATIONS))
        opened.page.click("button.authorize")
        opened.page.fill(".auth-container input", "secret-1")
        opened.page.click(".auth-container button.authorize")
        opened.page.click("button.btn-done")
        block = opened.page.locator("#operations-default-post_generate")
        block.locator(".opblock-summary-control").click()
        block.locator("textarea").fill(json.dumps({"inputs": "hello eos-3"}))
        block.get_by_role("button", name="Execute").click()
        expect(block.locator(".live-responses-table .microlight").first).to_contain_text("é1 é2")
        keep_screenshot(opened.page, "docs")
        assert [url for url in opened.asked if not url.startswith(f"http://127.0.0.1:{front.port}/")] == []
        assert opened.complaints == []


@pytest.mark.parametrize("name", ["swagger-ui.js.map", "..%2f__init__.py", "index.html"])
def test_no_other_file_of_the_wheel_is_served(start_front: StartFront, name: str) -> None:
    with start_front() as front:
        assert front.client.get(f"/docs/{name}").status_code == 404
