"""Records a program with torch_xla: lazy tensors build a graph, which is written down as StableHLO and never run.

Nothing is on a device: arguments and weights are placeholders, which have a shape and no data. The few calls below
torch_xla's public surface are those that its own Dynamo bridge uses (`torch_xla._dynamo.dynamo_bridge`); they are
private, hence torch_xla is pinned.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# torch_xla only writes graphs down here; it must not reach for an accelerator, which belongs to the runtime.
os.environ["PJRT_DEVICE"] = "CPU"

import torch
import torch_xla
import torch_xla.backends
import torch_xla.core.xla_builder as xla_builder
import torch_xla.core.xla_model as xla_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_xla import _XLAC

from text_generation_server.engine.program import Program, Spec
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.lowering import kernels, marks  # noqa: F401 - makes what `engine` defines recordable
from text_generation_server.lowering.lowered import LoweredProgram, Parameter, Result


class Placeholders:
    """Tensors without data, and which name each of them stands for."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._dtypes: dict[str, str] = {}

    def make(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, on_device: str | None = None
    ) -> Tensor:
        """`on_device`: the dtype that it has there, if torch_xla does not know that one, see `Parameter`."""
        if on_device is not None:
            self._dtypes[name] = on_device
        placeholder: Tensor = xla_builder.create_placeholder_tensor(shape, dtype)
        self._names[_XLAC._xla_get_tensor_id(placeholder)] = name
        return placeholder

    def wrapped(self, placeholder: Tensor, name: str) -> torch.nn.Parameter:
        """The placeholder as a parameter of a module, which for torch_xla is another tensor."""
        parameter = torch.nn.Parameter(placeholder, requires_grad=False)
        self._names[_XLAC._xla_get_tensor_id(parameter)] = name
        return parameter

    def of(self, spec: Spec, name: str) -> Tensor:
        if spec.dtype.startswith("float8"):
            return self.make(name, spec.shape, torch.int8, spec.dtype)
        return self.make(name, spec.shape, getattr(torch, spec.dtype))

    def name(self, tensor_id: int) -> str | None:
        return self._names.get(tensor_id)

    def dtype(self, name: str, recorded: str) -> str:
        """What it has on the device."""
        return self._dtypes.get(name, recorded)


def device() -> torch.device:
    """Where placeholders and constants are."""
    return torch.device(torch_xla.device())


def record(program: Program, weights: Placeholders, *, exact_float32: bool) -> LoweredProgram:
    """The program as StableHLO.

    Args:
        weights: those that the program's function reads.
        exact_float32: multiply float32 matrices in float32; a TPU would take bfloat16 passes.

    Raises:
        UnsupportedModelError: it needs an operation that cannot be lowered, or a value while it is recorded.
        RuntimeError: a result has another shape than the state argument that it succeeds.
    """
    arguments = Placeholders()
    given = {name: arguments.of(spec, name) for name, spec in program.arguments.items()}
    set_precision("highest" if exact_float32 else "default")
    _XLAC._set_allow_execution(False)
    try:
        with torch.no_grad(), OnlyLowerable(program.name):
            named = program.function(given)
            # A result that is an argument as it came would not be part of the graph.
            results = {name: tensor for name, tensor in named.items() if tensor is not given.get(name)}
            ids, values = _XLAC._get_tensors_xla_device_data_node(list(results.values()))
            # In the graph, and in the order of its parameters.
            stablehlo: bytes = xla_model.get_stablehlo_bytecode(list(results.values()))
    finally:
        _XLAC._set_allow_execution(True)
        _XLAC._clear_pending_irs(str(torch_xla.device()))
    constants: dict[str, Any] = {}
    parameters = []
    for tensor_id, value in zip(ids, values, strict=True):
        parameter = parameter_of(tensor_id, value, arguments, weights, len(constants))
        if parameter.source == "constant":
            constants[parameter.name] = as_array(value)
        parameters.append(parameter)
    return LoweredProgram(
        program.name,
        stablehlo,
        tuple(parameters),
        paired_results(program, results, parameters),
        constants,
    )


def set_precision(wanted: str) -> None:
    """Sets how matrices are multiplied in what is recorded from now on; torch_xla warns of each change."""
    if torch_xla.backends.get_mat_mul_precision() != wanted:
        torch_xla.backends.set_mat_mul_precision(wanted)


def parameter_of(
    tensor_id: int, value: Tensor, arguments: Placeholders, weights: Placeholders, constants: int
) -> Parameter:
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if (name := arguments.name(tensor_id)) is not None:
        return Parameter("argument", name, shape, arguments.dtype(name, dtype))
    if (name := weights.name(tensor_id)) is not None:
        return Parameter("weight", name, shape, weights.dtype(name, dtype))
    return Parameter("constant", str(constants), shape, dtype)


def as_array(value: Tensor) -> Any:
    """A constant on the host, as numpy has it."""
    host = value.cpu()
    if host.dtype is torch.bfloat16:
        return host.view(torch.int16).numpy().view("bfloat16")
    return host.numpy()


def paired_results(
    program: Program, results: Mapping[str, Tensor], parameters: list[Parameter]
) -> tuple[Result, ...]:
    """The results, each with the parameter whose name it has; see `record` for what is raised."""
    place = {p.name: index for index, p in enumerate(parameters) if p.source == "argument"}
    float8 = {name: spec.dtype for name, spec in program.arguments.items() if spec.dtype.startswith("float8")}
    paired = []
    for name, tensor in results.items():
        shape, recorded = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        # What succeeds an argument that was recorded as int8 was so too.
        dtype = float8.get(name, recorded) if recorded == "int8" else recorded
        spec = program.arguments.get(name)
        if spec is not None and spec.role == "state" and (spec.shape, spec.dtype) != (shape, dtype):
            raise RuntimeError(
                f"{program.name}: {name} has the shape {spec.shape} {spec.dtype}, and its successor {shape} {dtype}"
            )
        succeeds = place.get(name) if spec is not None and spec.role == "state" else None
        paired.append(Result(name, shape, dtype, succeeds))
    return tuple(paired)


def polar(length: Tensor, angle: Tensor) -> Tensor:
    return torch.view_as_complex_copy(
        torch.stack([length * torch.cos(angle), length * torch.sin(angle)], dim=-1)
    )


REWRITTEN = {"aten::polar": polar}
"""Operations that torch_xla does not lower, made of some that it does."""


class OnlyLowerable(TorchDispatchMode):
    """Refuses operations that torch_xla would hand to the CPU: with placeholders that ends the process."""

    KEYS = (
        "XLA",
        "CompositeExplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
        "CompositeImplicitAutograd",
    )
    READS = ("aten::_local_scalar_dense", "aten::_to_cpu")

    def __init__(self, program: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._program = program
        self._known: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if name in REWRITTEN:
            return REWRITTEN[name](*args, **(kwargs or {}))
        if name not in self._known:
            if name in self.READS:
                raise UnsupportedModelError(
                    f"{self._program} cannot be recorded: the model reads a value back ({name}), and there is none "
                    "before a request comes"
                )
            if func.namespace == "aten" and not any(
                torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in self.KEYS
            ):
                raise UnsupportedModelError(
                    f"{self._program} cannot be recorded: XLA has no lowering of the operation {name}"
                )
            self._known.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def on_placeholders(model: Any) -> Iterator[None]:
    """Lets a model be called for its shapes alone: nothing is executed, and the graph is forgotten afterwards."""
    _XLAC._set_allow_execution(False)
    try:
        with torch.no_grad(), OnlyLowerable(type(model).__name__):
            yield
    finally:
        _XLAC._set_allow_execution(True)
        _XLAC._clear_pending_irs(str(torch_xla.device()))
