"""The playground in Chromium: what somebody sees who types, points, stops and copies."""

import os
import subprocess
import sys

import pytest
from playwright.sync_api import Browser, expect

from front.conftest import StartFront
from front.running_front import wait_until
from page.conftest import visited


def test_an_answer_is_streamed_and_ends_with_its_counts(browser: Browser, start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.05}) as front, visited(browser, front) as visit:
        visit.send("hello eos-20")
        visit.page.wait_for_selector(".text.writing .token:nth-child(3)")
        assert visit.page.locator(".foot").count() == 0
        assert visit.finished() == " ".join(f"é{i}" for i in range(1, 20))
        foot = visit.page.inner_text(".foot")
        assert "20 tokens" in foot
        assert "first after" in foot
        assert not visit.complaints


def test_the_stop_button_ends_the_generation_on_the_shard(browser: Browser, start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.05}) as front, visited(browser, front) as visit:
        visit.send("hello")
        visit.page.wait_for_selector(".text.writing .token")
        visit.page.get_by_role("button", name="Stop").click()
        assert visit.finished().startswith("é1")
        assert "stopped" in visit.page.inner_text(".foot")
        wait_until(lambda: front.shard.is_empty)
        expect(visit.page.get_by_role("button", name="Send")).to_be_disabled()


def test_a_conversation_goes_on_with_what_was_said(browser: Browser, start_front: StartFront) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.page.fill("#system", "be short")
        visit.send("one eos-3")
        visit.finished()
        visit.send("two eos-2")
        visit.finished()
        prompt = front.shard.requests[-1].input_chunks.chunks[0].text
        assert prompt == "<s> system: be short user: one eos-3 assistant:  é1 é2 user: two eos-2 assistant:"
        visit.page.get_by_role("button", name="New").click()
        expect(visit.page.locator("#messages li")).to_have_count(0)


def test_parameters_reach_the_shard(browser: Browser, start_front: StartFront) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.page.fill("#max_tokens", "7")
        visit.page.fill("#seed", "11")
        visit.page.fill("#temperature", "0.3")
        visit.page.fill("#top_p", "0.5")
        visit.page.fill("#stop", "stop here\nand here")
        visit.send("hello")
        visit.finished()
        assert "cut off at the limit of tokens" in visit.page.inner_text(".foot")
        (request,) = front.shard.requests
        parameters, stopping = request.parameters, request.stopping_parameters
        assert (parameters.do_sample, parameters.seed) == (True, 11)
        assert (round(parameters.temperature, 3), round(parameters.top_p, 3)) == (0.3, 0.5)
        assert (stopping.max_new_tokens, list(stopping.stop_sequences)) == (7, ["stop here", "and here"])


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_pointing_at_a_word_shows_what_else_it_could_have_been(
    browser: Browser, start_front: StartFront, mode: str
) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.page.click(f".modes [data-mode={mode}]")
        visit.send("hello eos-4")
        visit.finished()
        visit.page.hover(".token >> nth=1")
        # The fake shard's second token has the logprob -0.68, which is 50.7 %, between its alternatives.
        rows = visit.page.locator("#tip tr").all_inner_texts()
        assert [row.split("\t") for row in rows][:2] == [["x", "60.7 %"], ["·é2", "50.7 %"]]
        assert "-0.680" in visit.page.inner_text("#tip")
        visit.page.mouse.move(5, 400)
        expect(visit.page.locator("#tip")).to_be_hidden()


def test_a_text_is_completed_and_goes_on(browser: Browser, start_front: StartFront) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.page.click(".modes [data-mode=completion]")
        visit.page.fill("#max_tokens", "3")
        visit.send("once upon")
        assert visit.finished() == "once upon é1 é2 é3"
        visit.page.get_by_role("button", name="Go on").click()
        wait_until(lambda: len(front.shard.requests) == 2)
        assert front.shard.requests[-1].input_chunks.chunks[0].text == "once upon é1 é2 é3"


@pytest.mark.parametrize("mode", ["chat", "completion"])
@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_request_that_is_shown_gives_the_same_answer_elsewhere(
    browser: Browser, start_front: StartFront, mode: str, language: str
) -> None:
    with start_front(api_key="secret-1") as front, visited(browser, front) as visit:
        visit.page.click(f".modes [data-mode={mode}]")
        visit.page.fill("#key", "secret-1")
        visit.page.fill("#stop", 'a "stop" that\'s odd')
        visit.send('it\'s "quoted" and $HOME `here` eos-4')
        visit.finished()
        code = visit.snippet(language)
        assert "secret-1" not in code
        command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
        variables = {**os.environ, "API_KEY": "secret-1", "HF_HUB_OFFLINE": "0"}
        outcome = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert outcome.returncode == 0, outcome.stderr
        assert "é3" in outcome.stdout
        shown, elsewhere = (request.input_chunks.chunks[0].text for request in front.shard.requests)
        assert shown == elsewhere
        assert "$HOME `here`" in elsewhere


def test_a_key_is_asked_for_where_one_is_needed(browser: Browser, start_front: StartFront) -> None:
    with start_front(api_key="secret-1") as front, visited(browser, front) as visit:
        visit.send("hello eos-2")
        visit.finished()
        assert "wants an API key" in visit.page.inner_text(".error")
        visit.page.get_by_label("API key").fill("secret-1")
        visit.page.get_by_role("button", name="Again").click()
        expect(visit.page.locator(".error")).to_have_count(0)
        assert visit.finished() == "é1"


def test_what_is_refused_or_fails_is_said_in_the_words_of_the_service(
    browser: Browser, start_front: StartFront
) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.send("word " * 80)
        visit.finished()
        assert "`inputs` tokens + `max_new_tokens` must be <= 64" in visit.page.inner_text(".error")
        visit.send("now fail-prefill")
        visit.finished()
        assert "asked to fail-prefill" in visit.page.locator(".error").last.inner_text()
        visit.send("and eos-3")
        assert visit.finished() == "é1 é2"
