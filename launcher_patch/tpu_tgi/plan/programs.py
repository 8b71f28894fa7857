"""What the TPU's own compiler says of the programs of a model, without a TPU.

A model of eight billion numbers compiles for minutes, and one layer in seconds. So programs of two depths are
compiled, and what a layer adds is added for all the others: the layers of a model are compiled one by one, and are
alike. On other numbers of chips one depth is compiled, and grows as it did on the first.
"""

import time
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from text_generation_server.engine.sharding import Sharding
from text_generation_server.engine.state import BatchShape
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.model.description import ModelDescription, ModelSource
from text_generation_server.runtime.executable import COMPILER_OPTIONS, placements
from text_generation_server.runtime.mesh import DeviceMesh, mesh_of
from text_generation_server.runtime.stablehlo import call_order, jitted, shapes
from text_generation_server.sampling.parameters import WatermarkStrength
from tpu_tgi.plan.tpus import Tpu


@dataclass(frozen=True)
class ProgramCost:
    """One program on each chip.

    Attributes:
        temporaries, code: bytes.
        flops: of one run.
        seconds: that compiling it took here, all depths together.
    """

    temporaries: int
    code: int
    flops: float
    seconds: float


class CompilationError(Exception):
    """The compiler refuses a program, with its words: mostly that memory is not enough."""


def describe(source: ModelSource) -> ModelDescription:
    """Raises UnsupportedModelError."""
    return LoweringHere().describe(source)


def record(source: ModelSource, shape: BatchShape, names: list[str]) -> list[LoweredProgram]:
    """Raises UnsupportedModelError. `shape` is that of the model with all layers."""
    lowering = LoweringHere()
    description = lowering.describe(source)
    options = ProgramOptions(shape.with_layers(description.layers), WatermarkStrength(), exact_float32=False)
    return list(lowering.lower(options, names))


def mesh_for(tpu: Tpu, chips: int) -> DeviceMesh:
    """The first chips of the host, which need not be there."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=tpu.topology)
    return mesh_of(list(topology.devices)[:chips])


def cost(program: LoweredProgram, mesh: DeviceMesh, sharding: Sharding) -> ProgramCost:
    """Compiles it. Raises CompilationError."""
    order, places = call_order(program), placements(program, mesh, sharding)
    started = time.perf_counter()
    try:
        lowered = jitted(program, order, places, "tpu").lower(*shapes(program, order, places))
        compiled = lowered.compile(compiler_options=COMPILER_OPTIONS["tpu"])
    except jax.errors.JaxRuntimeError as error:
        raise CompilationError(" ".join(str(error).split())[:300]) from error
    memory = compiled.memory_analysis()
    return ProgramCost(
        int(memory.temp_size_in_bytes),
        int(memory.generated_code_size_in_bytes),
        float(compiled.cost_analysis()["flops"]),
        time.perf_counter() - started,
    )


def deepened(first: ProgramCost, second: ProgramCost, depths: tuple[int, int], layers: int) -> ProgramCost:
    """The cost with all layers, by that of two depths. Temporaries are those of the layer that needs most."""
    if depths[0] == depths[1]:
        return second
    more = (layers - depths[0]) / (depths[1] - depths[0])

    def at_full_depth(one: float, other: float) -> float:
        return max(other, one + (other - one) * more)

    return ProgramCost(
        max(first.temporaries, second.temporaries),
        int(at_full_depth(first.code, second.code)),
        at_full_depth(first.flops, second.flops),
        first.seconds + second.seconds,
    )


def deepened_alike(first: ProgramCost, seen: ProgramCost, whole: ProgramCost) -> ProgramCost:
    """The cost with all layers on other chips, where `seen` of the first depth became `whole`."""
    return ProgramCost(
        first.temporaries + max(0, whole.temporaries - seen.temporaries),
        int(first.code * whole.code / seen.code),
        first.flops * whole.flops / seen.flops,
        first.seconds,
    )
