"""A recorded program as data: StableHLO, what feeds its parameters, and what its results are. No torch here.

It can be kept in a file, compiled by JAX on a machine without torch, and replayed (`benchmarks/replay.py`).
"""

import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from numpy.typing import NDArray

Source = Literal["argument", "weight", "constant"]

KERNEL = "tpu_tgi."
"""What the targets of the calls in `stablehlo` that stand for `engine.kernels` begin with, before a kernel's name."""

MARK = "tpu_tgi.mark"
"""The target of the calls in `stablehlo` that stand for `engine.marks`; `backend_config` has the mark's name."""


@dataclass(frozen=True)
class Parameter:
    """What feeds one parameter of the compiled program.

    Attributes:
        source: "argument" of the program, "weight" of the model, or "constant", which the program brings along.
        name: of the argument, weight or constant.
        dtype: on the device; what was recorded has int8 where it is one that torch_xla does not know, and does nothing
            with it but slices, conversions and kernels.
    """

    source: Source
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Result:
    """One result of the compiled program. `succeeds`: the place of the parameter whose buffer it takes over, if any."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    succeeds: int | None


@dataclass(frozen=True)
class LoweredProgram:
    """Attributes:
    name: of the program.
    stablehlo: a versioned, portable artifact; its parameters and results are in the order of the next two.
    constants: by name, what the program reads that is neither argument nor weight (rotary frequencies).
    """

    name: str
    stablehlo: bytes
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    constants: dict[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        facts = {
            "name": self.name,
            "parameters": [[p.source, p.name, p.shape, p.dtype] for p in self.parameters],
            "results": [[r.name, r.shape, r.dtype, r.succeeds] for r in self.results],
        }
        # As bytes, because numpy's files do not know bfloat16.
        arrays = {
            f"constant {name}": np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            for name, value in self.constants.items()
        }
        buffer = io.BytesIO()
        arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        arrays["stablehlo"] = np.frombuffer(self.stablehlo, np.uint8)
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "LoweredProgram":
        """Raises ValueError or KeyError for anything but what `to_bytes` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            parameters = tuple(
                Parameter(source, name, tuple(shape), dtype)
                for source, name, shape, dtype in facts["parameters"]
            )
            constants = {
                p.name: np.frombuffer(file[f"constant {p.name}"].tobytes(), p.dtype).reshape(p.shape)
                for p in parameters
                if p.source == "constant"
            }
            results = tuple(Result(name, tuple(shape), *rest) for name, shape, *rest in facts["results"])
            return LoweredProgram(facts["name"], file["stablehlo"].tobytes(), parameters, results, constants)
