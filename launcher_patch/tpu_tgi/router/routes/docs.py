"""GET /docs and /api-doc/openapi.json: what can be called, for people and for programs.

The page is Swagger UI, whose files come from the wheel `swagger-ui-py`: nothing is loaded from elsewhere.
"""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tpu_tgi.router.api.openapi import Json
from tpu_tgi.router.http.operation import Operation

ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

# A browser that has them need not ask for an hour: they are as old as the installation.
CACHING = {"cache-control": "max-age=3600"}

PAGE = """\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>API of this service</title>
    <link rel="icon" href="favicon-32x32.png" type="image/png" />
    <link rel="stylesheet" href="swagger-ui.css" />
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="swagger-ui-bundle.js"></script>
    <script src="start.js"></script>
  </body>
</html>
"""

START = """\
SwaggerUIBundle({
  url: new URL("../api-doc/openapi.json", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  // It would ask a server on the internet.
  validatorUrl: null,
});
"""


async def openapi(request: Request) -> Response:
    return JSONResponse(request.app.state.openapi)


async def redirect(_: Request) -> Response:
    return RedirectResponse("/docs/", 303)


async def docs(_: Request) -> Response:
    return HTMLResponse(PAGE)


async def start(_: Request) -> Response:
    return Response(START, headers=CACHING, media_type="text/javascript")


async def asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404)
    return FileResponse(swagger_files() / name, headers=CACHING, media_type=ASSETS[name])


@cache
def swagger_files() -> Path:
    """Found without importing the package, which would import frameworks for which it has handlers."""
    return Path(str(distribution("swagger-ui-py").locate_file("swagger_ui/static")))


OPERATIONS = [
    Operation("GET", "/docs", redirect, "Leads to /docs/", answer=str, media_type="text/html"),
    Operation("GET", "/docs/", docs, "This page", answer=str, media_type="text/html"),
    Operation("GET", "/api-doc/openapi.json", openapi, "This description, in OpenAPI", answer=Json),
]

# Parts of the page, which nobody calls.
FILES = [Route("/docs/start.js", start), Route("/docs/{name}", asset)]
