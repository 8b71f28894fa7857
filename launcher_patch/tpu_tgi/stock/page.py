"""The page beside the stock programs, which have none: a process of its own that ends with the launcher."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.addresses import EVERYWHERE, ip_address, reserve


@dataclass(frozen=True)
class PageProcess:
    """How the page is started: see `tpu_tgi.page.proxy`."""

    arguments: tuple[str, ...]

    @classmethod
    def prepare(cls, values: Mapping[str, Any], slots: int | None, *, needs_key: bool) -> Self | None:
        """None if nobody asked for it. Raises InvalidSettingError if its port cannot be had."""
        hostname, port, router_port = values["hostname"], values["page_port"], values["port"]
        if port is None:
            return None
        if port == router_port:
            raise InvalidSettingError(
                f"`--page-port {port}` is the router's own: `--page-port {port + 1}` would work"
            )
        try:
            reserve(hostname, port).close()
        except InvalidSettingError as error:
            raise InvalidSettingError(
                f"`--page-port {port}` cannot be used: {error.__cause__}. Give another `--page-port`"
            ) from error
        arguments = ["--hostname", hostname, "--port", str(port)]
        arguments += ["--router", f"http://{reachable(hostname)}:{router_port}"]
        if slots is not None:
            arguments += ["--slots", str(slots)]
        if needs_key:
            arguments.append("--needs-key")
        if values["json_output"]:
            arguments.append("--json-output")
        return cls(tuple(arguments))

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "tpu_tgi.page.proxy", *self.arguments]

    def start(self) -> None:
        """Returns at once. The process ends when this one does, whatever program that has become."""
        subprocess.Popen([*self.command, "--ends-with", str(os.getpid())], stdin=subprocess.DEVNULL)


def reachable(hostname: str) -> str:
    """Where a router that listens on `hostname` is reached from the same machine."""
    address = {EVERYWHERE: "127.0.0.1", "::": "::1"}.get(found := ip_address(hostname), found)
    return f"[{address}]" if ":" in address else address
