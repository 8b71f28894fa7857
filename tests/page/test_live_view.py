"""What the page shows of the service: slots, queue, speed, and how far a start is."""

import re
from pathlib import Path
from threading import Thread

from playwright.sync_api import Browser, expect

from front.conftest import StartFront
from front.launched import launched
from page.conftest import keep_screenshot, visit, visited


def test_slots_queue_and_speed_are_those_of_the_service(browser: Browser, start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.1}) as front, visited(browser, front) as opened:
        expect(opened.page.locator("#of-slots")).to_have_text("of 4 are busy")
        clients = [
            Thread(target=front.generate, args=("hello",), kwargs={"max_new_tokens": 60}) for _ in range(6)
        ]
        for client in clients:
            client.start()
        expect(opened.page.locator("#running")).to_have_text("4")
        expect(opened.page.locator("#queued")).to_have_text("2")
        expect(opened.page.locator("#slots .busy")).to_have_count(4)
        # Ten steps in a second, each with a token for four requests, less what the machine is slower.
        expect(opened.page.locator("#speed")).to_have_text(re.compile(r"^(1[5-9]|[2-5]\d)(\.\d+)?$"))
        keep_screenshot(opened.page, "busy")
        for client in clients:
            client.join()
        expect(opened.page.locator("#running")).to_have_text("0")
        expect(opened.page.locator("#answered")).to_have_text("6")
        assert opened.page.inner_text("#first").endswith((" ms", " s"))


def test_the_page_is_there_while_the_model_is_loaded_and_shows_how_far_that_is(
    browser: Browser, model_directory: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "go on"
    environment = {"FAKE_PROGRAMS": "3/19", "FAKE_WAITS_FOR": str(gate)}
    with launched(tmp_path, str(model_directory), environment=environment) as running:
        running.wait_until_answering()
        with visit(browser, f"{running.url}/") as opened:
            expect(opened.page.locator("#warming-text")).to_contain_text("3 of 19")
            expect(opened.page.locator("#send")).to_be_disabled()
            keep_screenshot(opened.page, "warming")
            gate.touch()
            opened.wait_until_ready()
            expect(opened.page.locator("#warming")).to_be_hidden()
            opened.send("hello eos-3")
            assert opened.finished() == "é1 é2"


def test_a_service_that_goes_away_is_noticed(browser: Browser, start_front: StartFront) -> None:
    with start_front() as front, visited(browser, front) as opened:
        opened.context.set_offline(True)
        expect(opened.page.locator("#state")).to_contain_text("cannot be reached", timeout=20_000)
        opened.context.set_offline(False)
        opened.wait_until_ready()
