"""For mkdocs: what lies outside of docs/ is linked where the repository shows it."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\]\((\.\.?/[^)#]+)((?:#[^)]*)?)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with each page."""
    here = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def outside(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, found[1]))
        if path.startswith("docs/"):
            return found[0]
        return f"]({config.repo_url}/blob/main/{path}{found[2]})"

    return LINK.sub(outside, markdown)
