"""How the page looks: legible in both sets of colours, and whole in windows of every width."""

import pytest
from playwright.sync_api import Browser, expect

from front.conftest import StartFront
from page.conftest import NARROW, WIDE, keep_screenshot, visited

SIZES = {"wide": WIDE, "middle": (900, 700), "narrow": NARROW}

# WCAG 2: 4.5 for text, of an element against the ground that is behind it.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return parse("white");
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [one, other] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    found.push([contrast, `${element.localName} ${element.className} ${element.textContent.slice(0, 30)}`]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_legible_and_nothing_sticks_out(
    browser: Browser, start_front: StartFront, theme: str, size: str
) -> None:
    with start_front() as front, visited(browser, front, size=SIZES[size], theme=theme) as visit:
        visit.send("hello eos-30")
        visit.finished()
        visit.page.click("#request summary")
        for pane in ("talk", "settings", "live"):
            tab = visit.page.locator(f".panes [data-pane={pane}]")
            if tab.is_visible():
                tab.click()
            keep_screenshot(visit.page, f"{theme}-{size}-{pane}")
            contrasts = visit.page.evaluate(CONTRASTS)
            assert len(contrasts) > 10
            assert [what for contrast, what in contrasts if contrast < 4.5] == []
            overflow = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert overflow[0] <= overflow[1]


def test_the_colours_follow_the_system_until_somebody_chooses(
    browser: Browser, start_front: StartFront
) -> None:
    with start_front() as front, visited(browser, front, theme="dark") as visit:
        root = visit.page.locator("html")
        expect(root).to_have_attribute("data-theme", "dark")
        visit.page.emulate_media(color_scheme="light")
        expect(root).to_have_attribute("data-theme", "light")
        visit.page.click("#theme")
        visit.page.reload()
        expect(root).to_have_attribute("data-theme", "dark")


def test_every_control_has_a_name(browser: Browser, start_front: StartFront) -> None:
    unnamed = """() => [...document.querySelectorAll("button, input, textarea, a")]
      .filter((element) => element.checkVisibility())
      .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
      .map((element) => element.outerHTML)"""
    with start_front() as front, visited(browser, front) as visit:
        assert visit.page.evaluate(unnamed) == []


def test_everything_comes_from_the_service_itself(browser: Browser, start_front: StartFront) -> None:
    with start_front() as front, visited(browser, front) as visit:
        visit.send("hello eos-2")
        visit.finished()
        assert len(visit.asked) > 10
        assert [url for url in visit.asked if not url.startswith(f"http://127.0.0.1:{front.port}/")] == []
        assert visit.complaints == []
