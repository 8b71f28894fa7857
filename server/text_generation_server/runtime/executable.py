"""A compiled program: run, kept in a file, and asked what memory it takes."""

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.experimental import serialize_executable

from text_generation_server.engine.sharding import ONE_CHIP, WHOLE, Sharding
from text_generation_server.lowering.loop import Loop
from text_generation_server.lowering.lowered import LoweredProgram, Parameter, Result
from text_generation_server.runtime.mesh import Buffer, DeviceMesh
from text_generation_server.runtime.stablehlo import (
    CallOrder,
    Placements,
    call_order,
    jitted,
    shapes,
    starter,
)

COMPILER_OPTIONS = {
    # How many bytes must be used of what is copied to on-chip memory. By default the compiler moves a cache there that
    # is small enough, writes one position of each slot, and moves all of it back: 0.18 of a decode step's traffic
    # (`make tpu-check`, Llama-3.1-8B on v5e:2x4).
    "tpu": {"xla_tpu_msa_inefficient_use_to_copy_ratio": "1.5"},
}
"""By platform."""


@dataclass(frozen=True)
class ProgramMemory:
    """Bytes on each device, as the compiler says.

    Attributes:
        arguments, results: of one call; `aliased` bytes of both are the same buffers.
        temporaries: while it runs. code: as long as the program is loaded.
    """

    arguments: int
    results: int
    aliased: int
    temporaries: int
    code: int


@dataclass(frozen=True)
class Signature:
    """What a compiled program takes and returns, by name, in the order of the call.

    Attributes:
        arguments: (source, name) of each, see `lowering.lowered.Parameter`.
        results: names.
    """

    arguments: tuple[tuple[str, str], ...]
    results: tuple[str, ...]


class Executable:
    """One program on its devices. `run` neither traces nor compiles."""

    def __init__(
        self, compiled: Any, signature: Signature, memory: ProgramMemory, constants: Mapping[str, Buffer]
    ) -> None:
        self.memory = memory
        self._compiled = compiled
        self._start = starter(compiled)
        self._signature = signature
        self._constants = dict(constants)
        self._template: list[Buffer | None] = []
        self._passed: list[tuple[int, str]] = []

    def bind(self, weights: Mapping[str, Buffer]) -> None:
        """Says once which arrays the weights are; KeyError if one is missing."""
        sources = {"weight": weights, "constant": self._constants}
        self._template = [
            None if source == "argument" else sources[source][name]
            for source, name in self._signature.arguments
        ]
        self._passed = [
            (place, name)
            for place, (source, name) in enumerate(self._signature.arguments)
            if source == "argument"
        ]

    def run(self, state: Mapping[str, Buffer], inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Starts it and returns at once: results by name, which are still being computed.

        An argument is taken from `inputs`, else from `state`. Those that are succeeded by a result of their name are
        given away and must not be used again.
        """
        arguments = self._template.copy()
        for place, name in self._passed:
            given = inputs.get(name)
            arguments[place] = state[name] if given is None else given
        return dict(zip(self._signature.results, self._start(arguments), strict=True))

    def to_bytes(self) -> bytes:
        """For `from_bytes`, on the same devices with the same versions."""
        payload, in_tree, out_tree = serialize_executable.serialize(self._compiled)
        # Trees of JAX and numpy arrays can be pickled and nothing else; the file is our own, with a checksum.
        constants = {name: jax.device_get(value) for name, value in self._constants.items()}
        facts = json.dumps({"signature": asdict(self._signature), "memory": asdict(self.memory)})
        return pickle.dumps((facts, payload, in_tree, out_tree, constants))

    @staticmethod
    def from_bytes(data: bytes, mesh: DeviceMesh) -> "Executable":
        """Raises all kinds of errors for what these devices cannot load."""
        facts, payload, in_tree, out_tree, constants = pickle.load(io.BytesIO(data))
        read = json.loads(facts)
        compiled = serialize_executable.deserialize_and_load(
            payload,
            in_tree,
            out_tree,
            backend=mesh.devices[0].client,
            execution_devices=mesh.devices,
        )
        signature = Signature(
            tuple((source, name) for source, name in read["signature"]["arguments"]),
            tuple(read["signature"]["results"]),
        )
        on_device = {name: mesh.send(value) for name, value in constants.items()}
        return Executable(compiled, signature, ProgramMemory(**read["memory"]), on_device)


def compile_program(
    program: LoweredProgram | Loop, mesh: DeviceMesh, sharding: Sharding = ONE_CHIP
) -> Executable:
    """Compiles for these devices; `sharding`: of what it takes and returns, over as many.

    Raises:
        RuntimeError: the compiler refuses it, or does not update each donated buffer in place.
    """
    order = call_order(program)
    places = placements(program, mesh, sharding)
    lowered = jitted(program, order, places).lower(*shapes(program, order, places))
    compiled = lowered.compile(compiler_options=COMPILER_OPTIONS.get(mesh.platform))
    statistics = compiled.memory_analysis()
    memory = ProgramMemory(
        arguments=statistics.argument_size_in_bytes,
        results=statistics.output_size_in_bytes,
        aliased=statistics.alias_size_in_bytes,
        temporaries=statistics.temp_size_in_bytes,
        code=statistics.generated_code_size_in_bytes,
    )
    check_aliases(program, order, sharding, memory)
    parameters = [program.parameters[place] for place in order.donated + order.kept]
    signature = Signature(
        tuple((parameter.source, parameter.name) for parameter in parameters),
        tuple(result.name for result in program.results),
    )
    constants = {
        parameter.name: mesh.send(program.constants[parameter.name])
        for parameter in parameters
        if parameter.source == "constant"
    }
    return Executable(compiled, signature, memory, constants)


def placements(program: LoweredProgram | Loop, mesh: DeviceMesh, sharding: Sharding) -> Placements:
    """Where its parameters and results lie."""

    def place(array: Parameter | Result) -> Any:
        if isinstance(array, Parameter) and array.source == "weight":
            return mesh.placed_weight(array.name, array.shape, sharding.weight(array.name, array.shape))
        if isinstance(array, Parameter) and array.source == "constant":
            return mesh.placed(WHOLE)
        return mesh.placed_as(array.name, array.shape, array.dtype, sharding.array(array.name, array.shape))

    return Placements(
        sharding,
        tuple(place(parameter) for parameter in program.parameters),
        tuple(place(result) for result in program.results),
    )


def check_aliases(
    program: LoweredProgram | Loop, order: CallOrder, sharding: Sharding, memory: ProgramMemory
) -> None:
    """RuntimeError unless all that is donated is updated in place; a copy of a cache would double it."""
    donors = [program.parameters[place] for place in order.donated]
    donated = sum(donor.nbytes // sharding.parts(sharding.array(donor.name, donor.shape)) for donor in donors)
    if memory.aliased < donated:
        raise RuntimeError(
            f"{program.name}: of {donated} donated bytes the compiler updates only {memory.aliased} in place"
        )
