"""Makes the tables in docs/models.md: `PYTHONPATH=tests .venv/bin/python -m documentation.models_page`."""

from documentation.repository import ROOT
from text_generation_server.model.architectures import ARCHITECTURES, REFUSALS

PAGE = ROOT / "docs" / "models.md"
SERVED = "| model type | family | what is special | held by |\n|---|---|---|---|\n"
REFUSED = "| model type | why: it |\n|---|---|\n"


def made_page() -> str:
    """The page with the tables of the source in place of those that it has."""
    served = [f"| `{a.model_type}` | {a.family} | {a.special} | `{a.test}` |" for a in ARCHITECTURES]
    refused = [f"| {', '.join(f'`{t}`' for t in each.model_types)} | {each.reason} |" for each in REFUSALS]
    return with_rows(with_rows(PAGE.read_text(), SERVED, served), REFUSED, refused)


def with_rows(page: str, heading: str, rows: list[str]) -> str:
    """A page with other rows under the heading of a table."""
    before, _, rest = page.partition(heading)
    after = rest[rest.index("\n\n") :] if not rest.startswith("\n") else "\n" + rest
    return before + heading + "\n".join(rows) + after


if __name__ == "__main__":
    PAGE.write_text(made_page())
