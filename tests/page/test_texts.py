"""How a text becomes elements: a little Markdown, and no HTML."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from front.running_front import RunningFront
from page.conftest import Visit, visited

HOSTILE = """<img src=x onerror=alert(1)> **<b>bold</b>** `<i>` [a](javascript:alert(1))
```
<script>alert(1)</script>
"""

RENDER = """async ([text, size]) => {
  const { render } = await import("./page/text.js");
  const pieces = [];
  for (let at = 0; at < text.length; at += size) pieces.push({ text: text.slice(at, at + size), logprob: -1, top: [] });
  const holder = document.createElement("div");
  holder.append(render(pieces, { markdown: true }));
  return {
    kinds: [...new Set([...holder.querySelectorAll("*")].map((element) => element.localName))].sort(),
    text: holder.textContent,
    whole: [...holder.querySelectorAll("[data-token]")].every((span) =>
      pieces[span.dataset.token].text.includes(span.textContent)),
  };
}"""


@pytest.fixture(scope="module")
def opened(browser: Browser, front: RunningFront) -> Iterator[Visit]:
    """One page for all tests of this module."""
    with visited(browser, front) as opened:
        yield opened


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_nothing_of_an_answer_is_read_as_html(opened: Visit, size: int) -> None:
    rendered = opened.page.evaluate(RENDER, [HOSTILE, size])
    assert rendered["kinds"] == ["code", "p", "pre", "span", "strong"]
    assert "<img src=x onerror=alert(1)>" in rendered["text"]
    assert "<script>alert(1)</script>" in rendered["text"]
    assert rendered["whole"]


def test_nor_is_anything_of_a_message(opened: Visit) -> None:
    opened.send(f"{HOSTILE} eos-2")
    opened.finished()
    assert opened.page.inner_text(".message-user .text").startswith("<img src=x")
    assert opened.page.locator("#messages img, #messages script").count() == 0


@pytest.mark.parametrize(
    ("text", "kinds", "shown"),
    [
        ("# Title\n\nText", ["h4", "p", "span"], "TitleText"),
        ("- a\n- b\n\nc", ["li", "p", "span", "ul"], "abc"),
        ("1. a\n2. b", ["li", "ol", "span"], "ab"),
        ("a\n\n```python\nx = 1\n```\nb", ["code", "p", "pre", "span"], "ax = 1\nb"),
        ("*a* **b** `c`", ["code", "em", "p", "span", "strong"], "a b c"),
        ("2 * 3 * 4 and a_b_c", ["p", "span"], "2 * 3 * 4 and a_b_c"),
        ("```\nnot closed", ["code", "pre", "span"], "not closed"),
        ("", [], ""),
        (" \n\n", [], ""),
    ],
)
def test_a_little_markdown_is_shown_as_what_it_means(
    opened: Visit, text: str, kinds: list[str], shown: str
) -> None:
    rendered = opened.page.evaluate(RENDER, [text, 2])
    assert (rendered["kinds"], rendered["text"]) == (kinds, shown)
