"""The documentation says what the program has: its options, its messages, its arithmetic, and its own pages."""

import contextlib
import io
import re

import pytest

from documentation.repository import ROOT, VARIES, page, table_rows, texts_in_source
from tpu_tgi.options.option import Option, Panel
from tpu_tgi.options.table import OPTIONS

PAGES = sorted(str(file.relative_to(ROOT)) for file in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])

# A message may be put together from several strings; shorter pieces of it would be found by chance.
LEAST_LETTERS = 6


def row(option: Option) -> tuple[str, ...]:
    default = option.default_text if option.unit else "off"
    return (
        f"`{option.flag}`",
        option.unit or "switch",
        "required" if option.required else default or "none",
        option.help,
    )


def test_the_table_of_parameters_has_every_option_in_its_group() -> None:
    _, *sections = re.split(r"^## (.*)$", page("docs/parameters.md"), flags=re.MULTILINE)
    found = {
        title: [row for row in table_rows(text) if row[0].startswith("`--")]
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    for panel in Panel:
        assert found[panel.value] == [row(option) for option in OPTIONS if option.panel is panel]


def test_options_in_the_readme_exist() -> None:
    table = {
        cell for cells in table_rows(page("README.md")) for cell in re.findall(r"`(--[a-z-]+)`", cells[0])
    }
    assert table
    assert table <= {option.flag for option in OPTIONS}


def test_quoted_messages_are_those_of_the_source() -> None:
    texts = list(texts_in_source())
    cells = [cells[0] for cells in table_rows(page("docs/troubleshooting.md")) if "`" in cells[0]]
    quotes = [quote for cell in cells for quote in re.split("`, `", cell.partition(", status")[0])]
    quotes = [quote.strip("`") for quote in quotes if VARIES in quote or quote.startswith("`")]
    pieces = [
        piece
        for quote in quotes
        for piece in re.split(f"{VARIES}|, ", quote)
        if len(re.findall(r"\w", piece)) >= LEAST_LETTERS
    ]
    assert len(pieces) > 30
    missing = [piece for piece in pieces if not any(piece.strip(" `") in text for text in texts)]
    assert not missing


def test_the_arithmetic_of_the_sizing_page_is_that_of_the_shard() -> None:
    ((code, printed),) = re.findall(
        r"```python\n(.*?)```.*?```text\n(.*?)```", page("docs/sizing.md"), re.DOTALL
    )
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "docs/sizing.md", "exec"), {})
    assert output.getvalue() == printed


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    # What stands between backticks is code.
    text = re.sub(r"`[^`\n]*`(?!\])", "", page(name))
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target
