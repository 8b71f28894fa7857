"""A program that is traced and compiled once and then runs by the hash of its graph.

torch_xla normally retraces Python at each step (50 ms and more for 30 layers) or goes through Dynamo's guards and
bridge (30 s to compile). Below that bridge lie a few calls that run a compiled graph by its hash, with nothing but
a flat list of tensors in and out; `torch_xla._dynamo.dynamo_bridge` is where their use can be read. They are
private, hence torch_xla is pinned.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch_xla
from torch import Tensor
from torch_xla import _XLAC
from torch_xla.utils.buffer_donor_context import alias_with_buffer_donor_config

from text_generation_server.engine.programs import Program


class Trace:
    """The recorded graph of one program, not yet compiled. Use it as a context: leaving it forgets the graph.

    Attributes:
        outputs: the outputs that are computed, in the function's order. An output that is one of the arguments,
            unchanged, is not part of the graph.
        passed: for each place of such an output among all outputs, the argument that it is.
        parameters: for each parameter of the graph, the argument that feeds it, or None for a tensor that the
            function reads without having it as an argument (a weight, a constant).
        bound: for each parameter, that tensor, or None for an argument.
    """

    def __init__(self, program: Program) -> None:
        """Records the program. Nothing is executed.

        Raises:
            RuntimeError: the function needs a value while it is being recorded (a read-back, a fallback to the CPU).
        """
        torch_xla.sync(wait=True)
        arguments = program.arguments
        argument_of = {_XLAC._xla_get_tensor_id(tensor): i for i, tensor in enumerate(arguments)}
        _XLAC._set_allow_execution(False)
        try:
            with torch.no_grad():
                outputs = program.function(list(arguments))
        finally:
            _XLAC._set_allow_execution(True)
        identity = {id(tensor): i for i, tensor in enumerate(arguments)}
        self.output_count = len(outputs)
        self.passed = {place: identity[id(out)] for place, out in enumerate(outputs) if id(out) in identity}
        self.outputs = [out for out in outputs if id(out) not in identity]
        ids, values = _XLAC._get_tensors_xla_device_data_node(self.outputs)
        self.parameters: list[int | None] = [argument_of.get(tensor_id) for tensor_id in ids]
        self.bound = [
            None if index is not None else value for index, value in zip(self.parameters, values, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _XLAC._clear_pending_irs(str(torch_xla.device()))


class CompiledProgram:
    """One XLA executable: `run` takes and returns flat lists of tensors and never traces or compiles."""

    def __init__(self, program: Program) -> None:
        """Traces and compiles. Nothing is executed, and the arguments keep their values.

        A caller of `run` must not use donated arguments again. Arguments that are passed through are not donated.
        """
        with Trace(program) as trace:
            donors = [program.arguments[i] for i in range(program.donated) if i not in trace.passed.values()]
            for tensor in donors:
                _XLAC._set_buffer_donation(tensor, True)
            try:
                with alias_with_buffer_donor_config():
                    self._hash = _XLAC._get_graph_hash(trace.outputs)
                    _XLAC._xla_warm_up_cache(trace.outputs, [])
            finally:
                # The flag sits on the buffer. The executable has it by now, and other programs are traced
                # with the same buffers.
                for tensor in donors:
                    _XLAC._set_buffer_donation(tensor, False)
            self._passed = trace.passed
            self._output_count = trace.output_count
            self._parameters = trace.parameters
            self._bound = trace.bound

    def run(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Starts the executable; returns at once with tensors that are still being computed."""
        flat = [
            bound if index is None else arguments[index]
            for index, bound in zip(self._parameters, self._bound, strict=True)
        ]
        computed = iter(_XLAC._run_cached_graph(self._hash, flat))
        return [
            arguments[self._passed[place]] if place in self._passed else next(computed)
            for place in range(self._output_count)
        ]
