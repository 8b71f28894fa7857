"""How the programs of the tests are compiled: quickly, or as they are served."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from text_generation_server.runtime.executable import COMPILER_OPTIONS

QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "True",
    # The older emitters of LLVM's code, without MLIR in between.
    "xla_cpu_use_fusion_emitters": "False",
    # In one part: several take longer together, and the other processors have tests of their own.
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""Options with which a program is compiled in a quarter of the time, and runs slowly."""


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Within, this process compiles programs for the CPU that are slow: most models here are so small that it does not
    matter."""
    with patch.dict(COMPILER_OPTIONS, cpu=QUICK):
        yield


@contextmanager
def compilation_as_served() -> Iterator[None]:
    """Within, this process compiles as the service does: for models so large that their speed matters."""
    with patch.dict(COMPILER_OPTIONS):
        COMPILER_OPTIONS.pop("cpu", None)
        yield
