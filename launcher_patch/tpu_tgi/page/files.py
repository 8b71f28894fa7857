"""The files of the page, and which requests they answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files

PREFIX = "/page/"
FACTS = f"{PREFIX}facts.json"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Scripts, styles and calls only from where the page came from; nobody may put the page into a frame.
SECURITY_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; "
SECURITY_POLICY += "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class File:
    """One file as it is sent."""

    content: bytes
    media_type: str

    @property
    def headers(self) -> Mapping[str, str]:
        """Another version of the service may stand here tomorrow, so browsers ask each time."""
        return {
            "content-type": self.media_type,
            "cache-control": "no-cache",
            "content-security-policy": SECURITY_POLICY,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }


def find(path: str, accept: str) -> File | None:
    """What to send to a browser that asks for this path; None for every other request.

    At `/` only those get the page who name HTML among what they accept, as browsers do: for probes and clients it is
    the health of the service.
    """
    if path == "/":
        return static_files()["index.html"] if "text/html" in accept else None
    return static_files().get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None


@cache
def static_files() -> Mapping[str, File]:
    """By name. Read once: there are a dozen, and they are small."""
    return {
        file.name: File(file.read_bytes(), MEDIA_TYPES[file.name[file.name.rindex(".") :]])
        for file in (files("tpu_tgi.page") / "static").iterdir()
    }


def facts(slots: int | None, *, needs_key: bool) -> File:
    """What the page is told beside the routes of the router.

    Args:
        slots: the batch size; None if it is not known here.
        needs_key: whether clients have to send an API key.
    """
    service = f"tpu-tgi {version('tpu-tgi')}"
    told = {"service": service, "slots": slots, "needs_key": needs_key}
    return File(json.dumps(told).encode(), "application/json")
