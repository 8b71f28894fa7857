"""The free memory of the host, which is also that of XLA's CPU device."""

import contextlib
import ctypes
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes: what the kernel can give without swapping, or what is left to this container if that is less."""
    sizes = [size for size in (host_memory(MEMINFO), container_memory(CGROUP)) if size is not None]
    return min(sizes, default=None)


def host_memory(meminfo: Path) -> int | None:
    """MemAvailable, see proc_meminfo(5)."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def container_memory(cgroup: Path) -> int | None:
    """What is left of the limit of a cgroup v2; None without one. Cached files do not count: they make way."""
    try:
        limit, statistics = ((cgroup / name).read_text() for name in ("memory.max", "memory.stat"))
    except OSError:
        return None
    used = [int(line.split()[1]) for line in statistics.splitlines() if line.startswith("anon ")]
    return int(limit) - sum(used) if limit.strip().isdigit() else None


def return_freed_memory() -> None:
    """Gives back to the system what reading weights and loading programs took and freed; glibc would keep it.

    It was a tenth of a gigabyte for SmolLM2 and 17 programs. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
