"""Runs pure torch functions as the engine runs its programs: recorded, compiled, and executed on a device."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_generation_server.engine.program import INPUT, Program, Spec
from text_generation_server.lowering import recording
from text_generation_server.runtime.executable import Executable, compile_program
from text_generation_server.runtime.mesh import DeviceMesh, open_mesh

_MESH: list[DeviceMesh] = []


def mesh() -> DeviceMesh:
    if not _MESH:
        _MESH.append(open_mesh(1))
    return _MESH[0]


def compiled(program: Program) -> Executable:
    """A program that reads no weights."""
    executable = compile_program(
        recording.record(program, recording.Placeholders(), exact_float32=False), mesh()
    )
    executable.bind({})
    return executable


def run(executable: Executable, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One run; results on the host. What is given is copied, so it may be donated."""
    buffers = {name: mesh().send(as_numpy(tensor)) for name, tensor in given.items()}
    return {name: as_tensor(np.asarray(result)) for name, result in executable.run(buffers, {}).items()}


def on_device(function: Callable[..., Any], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What the function gives for these tensors on the device; it returns a tensor or several."""

    def named(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        results = function(*(given[f"argument {i}"] for i in range(len(tensors))))
        several = results if isinstance(results, tuple) else (results,)
        return {f"result {i}": result for i, result in enumerate(several)}

    specs = {
        f"argument {i}": Spec(tuple(t.shape), str(t.dtype).removeprefix("torch."), INPUT)
        for i, t in enumerate(tensors)
    }
    results = run(compiled(Program("test", named, specs)), dict(zip(specs, tensors, strict=True)))
    return tuple(results[f"result {i}"] for i in range(len(results)))


def as_numpy(tensor: Tensor) -> Any:
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("bfloat16")
    return tensor.numpy()


def as_tensor(array: Any) -> Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
