"""A process that must not outlive the one that has started it."""

import ctypes
import signal
import sys

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Runs in the new process: a launcher that is killed outright takes its shard with it."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
