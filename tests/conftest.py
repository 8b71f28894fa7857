"""Settings that must stand before torch_xla is imported, eight devices for the tests of several chips, and the log."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("PJRT_DEVICE", "CPU")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from loguru import logger

from support import compilation

# Only of this process: a server that a test starts has one device, as the CPU of a user has.
flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{flags or ''} --xla_force_host_platform_device_count=8".strip()
jax.local_devices()
if flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = flags


# One cache of programs for all workers of a run, which pytest-xdist starts with the environment of this process.
if "TEST_PROGRAMS" not in os.environ:
    os.environ["TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="tpu-tgi-test-programs-")
    atexit.register(shutil.rmtree, os.environ["TEST_PROGRAMS"], ignore_errors=True)

# Rooms whose tests hold a service to times, or start browsers and routers: `make test` runs them by themselves.
ALONE = {"clients", "front", "page", "stock_router", "terminal"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rooms = Path(__file__).parent
    for item in items:
        if item.path.relative_to(rooms).parts[0] in ALONE:
            item.add_marker(pytest.mark.alone)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """pytest's own, which knows the standard library's records only."""
    sink = logger.add(caplog.handler, format="{message}", level=0)
    yield caplog
    logger.remove(sink)


@pytest.fixture(scope="session", autouse=True)
def quick_compilation() -> Iterator[None]:
    with compilation.quick_compilation():
        yield
