"""A hub of one model on this machine, with the few routes that huggingface_hub asks."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

MODEL = "someone/spelling"
COMMIT = "a" * 40


@dataclass
class SmallHub:
    """What the hub holds, and what it was asked.

    Attributes:
        url: for HF_ENDPOINT.
        tokens: the Authorization headers of requests for its model.
        fetched: names of files, in the order in which they were sent.
        sent: bytes of all of them.
    """

    files: dict[str, bytes]
    url: str = ""
    tokens: set[str | None] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    sent: int = 0


@contextmanager
def small_hub(files: dict[str, bytes], breaks_off: str | None = None) -> Iterator[SmallHub]:
    """A hub that is in reach for the context; `breaks_off` names a file of which only a half is ever sent."""
    hub = SmallHub(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if MODEL in path:
                hub.tokens.add(self.headers["Authorization"])
            if path in (f"/api/models/{MODEL}/revision/main", f"/api/models/{MODEL}"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self.answer(json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode())
            elif path == f"/api/models/{MODEL}/tree/{COMMIT}":
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                    for name, data in files.items()
                ]
                self.answer(json.dumps(tree).encode())
            elif path.startswith(f"/api/models/{MODEL}/revision/"):
                self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(f"/{MODEL}/resolve/") and (name := path.split("/", 5)[5]) not in files:
                self.answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
            elif path.startswith(f"/{MODEL}/resolve/"):
                data, asked = files[name], re.match(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
                assert asked is not None
                part = data[int(asked[1]) : int(asked[2] or len(data)) + 1]
                if self.command == "GET":
                    hub.fetched.append(name)
                    hub.sent += len(part)
                headers = {
                    "X-Repo-Commit": COMMIT,
                    "ETag": f'"{digest(data)}"',
                    "Content-Length": str(len(part)),
                }
                sent = part[: len(part) // 2] if name == breaks_off else part
                self.answer(sent, 206 if "Range" in self.headers else 200, headers)
            else:
                self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815 - http.server calls it by this name

        def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """The tests look at `fetched`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
