"""The ports that the stock router will bind, checked before a model is loaded: it finds out after the warm-up."""

import socket

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.addresses import ip_address, reserve
from tpu_tgi.options.command import Choices
from tpu_tgi.stock.programs import Version

PROMETHEUS_PORT = 9000

# Before, the router bound 9000 on all interfaces, and no option changed that.
PROMETHEUS_OPTION_SINCE: Version = (3, 3)


def check_ports(choices: Choices, launcher_version: Version) -> int | None:
    """The Prometheus port to pass on, if the router cannot have the one that it would take.

    Raises InvalidSettingError if a port is taken and was given, or cannot be changed.
    """
    hostname, port = choices.values["hostname"], choices.values["port"]
    reserve(hostname, port).close()
    given = choices.number("prometheus_port")
    wanted = given.value if given else PROMETHEUS_PORT
    if wanted != port and is_free(hostname, wanted):
        return None
    free = free_port(hostname)
    if given:
        raise InvalidSettingError(f"`{given}` is in use: `{given.but(free)}` would work")
    if launcher_version < PROMETHEUS_OPTION_SINCE:
        raise InvalidSettingError(
            f"Port {wanted} is in use, which this router binds while it starts: stop what uses it, or use `--embedded`"
        )
    return free


def is_free(hostname: str, port: int) -> bool:
    try:
        reserve(hostname, port).close()
    except InvalidSettingError:
        return False
    return True


def free_port(hostname: str) -> int:
    with socket.create_server((ip_address(hostname), 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
