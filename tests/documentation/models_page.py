"""Makes the table in docs/models.md: `PYTHONPATH=tests .venv/bin/python -m documentation.models_page`."""

from documentation.repository import ROOT
from text_generation_server.model.architectures import ARCHITECTURES

PAGE = ROOT / "docs" / "models.md"
HEADING = "| model type | family | what is special | held by |\n|---|---|---|---|\n"


def table() -> str:
    """One row for each architecture."""
    rows = [f"| `{a.model_type}` | {a.family} | {a.special} | `{a.test}` |" for a in ARCHITECTURES]
    return HEADING + "\n".join(rows) + "\n"


def page_with(made: str) -> str:
    """The page with this table in place of the one that it has."""
    before, _, rest = PAGE.read_text().partition(HEADING)
    after = rest.partition("\n\n")[2]
    return f"{before}{made}\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()))
