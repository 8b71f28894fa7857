"""GET /docs and /api-doc/openapi.json: what can be called, for people and for programs."""

import json
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tpu_tgi.router.openapi import Json
from tpu_tgi.router.operation import Operation

STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}summary{cursor:pointer}"


async def openapi(request: Request) -> Response:
    return JSONResponse(request.app.state.openapi)


async def redirect(_: Request) -> Response:
    return RedirectResponse("/docs/", 303)


async def docs(request: Request) -> Response:
    """Made at the first request, and kept."""
    state = request.app.state
    if not hasattr(state, "docs_page"):
        state.docs_page = page(state.openapi)
    return HTMLResponse(state.docs_page)


def page(document: Json) -> str:
    """The document as one page that needs no script and no network."""
    title = escape(document["info"]["title"])
    parts = [
        f"<!DOCTYPE html><html lang='en'><head><title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title} {escape(document['info']['version'])}</h1>",
        "<p>For programs: <a href='/api-doc/openapi.json'>/api-doc/openapi.json</a></p><h2>Routes</h2>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            call = f"{method.upper()} {path}"
            parts.append(folded(f"<b>{escape(call)}</b> {escape(operation['summary'])}", operation, document))
    parts.append("<h2>Types</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(folded(f"<b id='{escape(name)}'>{escape(name)}</b>", schema, document))
    return "".join([*parts, "</body></html>"])


def folded(summary: str, content: Json, document: Json) -> str:
    """A summary that opens; names of types in it lead to their descriptions."""
    text = escape(json.dumps(content, indent=2, ensure_ascii=False))
    for name in document["components"]["schemas"]:
        reference = f"#/components/schemas/{escape(name)}"
        text = text.replace(f"{reference}&quot;", f"<a href='#{escape(name)}'>{reference}</a>&quot;")
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"


OPERATIONS = [
    Operation("GET", "/docs", redirect, "Leads to /docs/", answer=str, media_type="text/html"),
    Operation("GET", "/docs/", docs, "This page", answer=str, media_type="text/html"),
    Operation("GET", "/api-doc/openapi.json", openapi, "This description, in OpenAPI", answer=Json),
]
