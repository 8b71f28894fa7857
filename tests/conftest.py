"""Settings that must stand before torch_xla is imported, eight devices for the tests of several chips, and the log."""

import os

os.environ.setdefault("PJRT_DEVICE", "CPU")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator

import jax
import pytest
from loguru import logger

from text_generation_server.runtime.executable import COMPILER_OPTIONS

# Only of this process: a server that a test starts has one device, as the CPU of a user has.
flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{flags or ''} --xla_force_host_platform_device_count=8".strip()
jax.local_devices()
if flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = flags


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """pytest's own, which knows the standard library's records only."""
    sink = logger.add(caplog.handler, format="{message}", level=0)
    yield caplog
    logger.remove(sink)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Programs that are compiled in half the time and run slower, for models so small that it does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        quick = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}
        patch.setitem(COMPILER_OPTIONS, "cpu", quick)
        yield
