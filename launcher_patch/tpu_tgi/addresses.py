"""The two addresses of the service, checked before a model is loaded."""

import ipaddress
import logging
import socket
from pathlib import Path

from text_generation_server.errors import InvalidSettingError

logger = logging.getLogger(__name__)

EVERYWHERE = "0.0.0.0"


def reserve(hostname: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: clients are refused until the model is warm.

    Raises InvalidSettingError if the address cannot be had.
    """
    address = ip_address(hostname)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Connections of an earlier run may still be winding down; a server that listens is found all the same.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidSettingError(
            f"`--hostname {hostname} --port {port}` cannot be used: {reason}. "
            "Stop what uses it, or give another `--port`"
        ) from error
    return listener


def ip_address(hostname: str) -> str:
    """An IP address as it is, `localhost` as one, any other name as every interface (the stock rule).

    Containers set the environment variable HOSTNAME to a name that is of no use here.
    """
    if hostname == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(hostname))
    except ValueError:
        logger.warning("`--hostname %s` is not an IP address: serving on %s", hostname, EVERYWHERE)
        return EVERYWHERE


def free_socket_path(path: str) -> None:
    """Removes what an earlier run has left behind.

    Raises InvalidSettingError if somebody listens there, or if it is not a socket.
    """
    file = Path(path)
    if not file.exists():
        if not file.parent.is_dir():
            raise InvalidSettingError(f"`--shard-uds-path`: there is no directory {file.parent}")
        return
    if not file.is_socket():
        raise InvalidSettingError(f"`--shard-uds-path`: {path} exists and is not a socket; give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            file.unlink()
            return
    raise InvalidSettingError(
        f"`--shard-uds-path`: another shard listens on {path}; give another path, for example {path}-b"
    )
