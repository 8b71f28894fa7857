"""The two addresses of the service, checked before a model is loaded."""

import contextlib
import fcntl
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from loguru import logger

from text_generation_server.errors import InvalidSettingError

EVERYWHERE = "0.0.0.0"

SOCKETS, LOCK = "tpu-tgi-socket-", "lock"
"""How the directories of sockets are called, and a file in each that its service holds locked."""


def reserve(hostname: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

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
        advice = "Stop what uses it, or give another `--port`"
        if isinstance(error, PermissionError):
            advice = "Ports below 1024 need rights: `--port 8080` would work"
        raise InvalidSettingError(
            f"`--hostname {hostname} --port {port}` cannot be used: {reason}. {advice}"
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
        logger.warning("`--hostname {}` is not an IP address: serving on {}", hostname, EVERYWHERE)
        return EVERYWHERE


@contextmanager
def socket_directory() -> Iterator[Path]:
    """A directory that only this user can enter: nobody else can put a socket where the shard's will be.

    Those of services that were killed before they could remove them are removed first. Raises InvalidSettingError if
    no disk has room for it.
    """
    remove_abandoned()
    directory, lock = locked_directory()
    try:
        with lock:
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def temporary_directories() -> list[str]:
    """Where the directory may be made, the best first.

    `tempfile.gettempdir` wants to write a file, and raises where all disks are full; a directory needs no room there.
    """
    return list(dict.fromkeys([os.environ.get("TMPDIR") or "/tmp", "/tmp", "/var/tmp", "/dev/shm"]))


def locked_directory() -> tuple[Path, IO[bytes]]:
    """See `socket_directory`, and the file in it that holds the lock while it is open."""
    reasons = []
    for parent in temporary_directories():
        try:
            directory = Path(tempfile.mkdtemp(prefix=SOCKETS, dir=parent))
            try:
                return directory, locked(directory)
            except OSError:
                # Without its lock nobody would know that it is abandoned.
                shutil.rmtree(directory, ignore_errors=True)
                raise
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
    raise InvalidSettingError(
        f"Nowhere is room for the directory of the shard's socket ({'; '.join(reasons)}): give "
        "`--shard-uds-path PATH` in a directory that has some"
    )


def locked(directory: Path) -> IO[bytes]:
    """The file that says that the directory is in use. It is there with its lock, never without."""
    file = (directory / ".new").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    os.rename(file.name, directory / LOCK)
    return file


def remove_abandoned() -> None:
    """Removes directories whose lock nobody holds: the kernel lets go of it when a process ends, however it does."""
    for parent in temporary_directories():
        for file in Path(parent).glob(f"{SOCKETS}*/{LOCK}"):
            # Another user's cannot be opened, and another service may be faster.
            with contextlib.suppress(OSError), file.open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent)


def remove(file: Path) -> None:
    """Raises InvalidSettingError for a file of another user."""
    try:
        file.unlink()
    except PermissionError as error:
        raise of_somebody_else(str(file)) from error


def of_somebody_else(path: str) -> InvalidSettingError:
    return InvalidSettingError(
        f"`--shard-uds-path`: {path} belongs to another user; give another path, for example {path}-b"
    )


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
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            remove(file)
            return
        except PermissionError as error:
            raise of_somebody_else(path) from error
        except OSError as error:
            raise InvalidSettingError(
                f"`--shard-uds-path`: {path} cannot be used: {error}; give another path, for example {path}-b"
            ) from error
    raise InvalidSettingError(
        f"`--shard-uds-path`: another shard listens on {path}; give another path, for example {path}-b"
    )
