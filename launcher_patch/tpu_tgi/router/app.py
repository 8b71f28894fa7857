"""The HTTP application: routes and error handlers."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tpu_tgi.router.body import RejectedBodyError, reject
from tpu_tgi.router.context import RouterContext
from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.json_response import error_response
from tpu_tgi.router.routes import OPERATIONS


def make_app(context: RouterContext) -> Starlette:
    """The routes of the stock router, as far as they are served."""
    app = Starlette(
        routes=[
            Route(operation.path, operation.handler, methods=[operation.method]) for operation in OPERATIONS
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
    return app


def request_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    return error_response(error)


def http_error(_: Request, error: Exception) -> Response:
    """An unknown path or a wrong method: the status alone, without a body."""
    if not isinstance(error, HTTPException):
        raise error
    return Response(status_code=error.status_code, headers=error.headers)


def client_left(_: Request, error: Exception) -> Response:
    """Nobody reads this answer; 499 is what proxies log for it."""
    if not isinstance(error, ClientDisconnect):
        raise error
    return Response(status_code=499)
