"""The page in front of an application: a router, or what passes requests on to one."""

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tpu_tgi.page.files import FACTS, File, facts, find


class WithPage:
    """Answers what is the page's own; everything else is for the application.

    Args:
        slots: the batch size; None if it is not known.
        needs_key: whether clients have to send an API key. The page itself needs none.
    """

    def __init__(self, app: ASGIApp, slots: int | None, needs_key: bool) -> None:
        self._app = app
        self._facts = facts(slots, needs_key=needs_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._file(scope) if scope["type"] == "http" else None
        if file is None:
            await self._app(scope, receive, send)
        else:
            await Response(file.content, headers=dict(file.headers))(scope, receive, send)

    def _file(self, scope: Scope) -> File | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        if scope["path"] == FACTS:
            return self._facts
        return find(scope["path"], Headers(scope=scope).get("accept", ""))
