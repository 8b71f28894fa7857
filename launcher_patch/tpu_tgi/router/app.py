"""The HTTP application: routes, who may call them, and error handlers."""

import hmac

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tpu_tgi.page.serving import WithPage
from tpu_tgi.router.api.openapi import document
from tpu_tgi.router.context import RouterContext
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.body import RejectedBodyError, reject
from tpu_tgi.router.http.json_response import error_response
from tpu_tgi.router.http.operation import Handler
from tpu_tgi.router.http.request_log import RequestLog
from tpu_tgi.router.routes import OPERATIONS, docs
from tpu_tgi.router.tracing import Tracing


def make_app(context: RouterContext, tracing: Tracing) -> Starlette:
    """The routes of the stock router, behind its API key and its rules for web pages (HTTP reference, 1.2)."""
    settings = context.settings
    app = Starlette(
        routes=[
            *(
                Route(
                    operation.path,
                    guarded(operation.handler, settings.keys) if operation.needs_key else operation.handler,
                    methods=[operation.method],
                )
                for operation in OPERATIONS
            ),
            *docs.FILES,
        ],
        middleware=[
            Middleware(RequestLog),
            *tracing.middleware(),
            *(page(context) if settings.page else []),
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_allow_origin or ("*",),
                allow_methods=("GET", "POST"),
                allow_headers=("content-type",),
            ),
        ],
        exception_handlers={
            RequestError: request_error,
            RejectedBodyError: reject,
            HTTPException: http_error,
            ClientDisconnect: client_left,
        },
    )
    app.router.redirect_slashes = False
    app.state.context = context
    app.state.openapi = document(OPERATIONS, guarded=bool(settings.keys))
    return app


def page(context: RouterContext) -> list[Middleware]:
    keys = context.settings.keys
    return [Middleware(WithPage, slots=context.limits.slots, needs_key=bool(keys))]


def guarded(handler: Handler, keys: tuple[str, ...]) -> Handler:
    """The handler, for those who send one of the keys; the others get an empty 401. The case of letters is ignored."""
    if not keys:
        return handler
    expected = [f"bearer {key.lower()}".encode() for key in keys]

    async def check(request: Request) -> Response:
        given = request.headers.get("authorization", "").lower().encode()
        # It takes as long for a key that is almost right as for any other.
        known = [hmac.compare_digest(given, one) for one in expected]
        return await handler(request) if any(known) else Response(status_code=401)

    return check


def request_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return error_response(error)


def http_error(request: Request, error: Exception) -> Response:
    """An unknown path or a wrong method: the status alone, without a body."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code != 405:
        return Response(status_code=error.status_code)
    methods = [operation.method for operation in OPERATIONS if operation.path == request.url.path]
    allow = ",".join("GET,HEAD" if method == "GET" else method for method in methods)
    return Response(status_code=405, headers={"allow": allow})


def client_left(_: Request, error: Exception) -> Response:
    """Nobody reads this answer; 499 is what proxies log for it."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return Response(status_code=499)
