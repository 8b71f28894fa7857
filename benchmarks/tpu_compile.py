"""Compiles a StableHLO module with the real TPU compiler, on a machine without a TPU.

    python -m benchmarks.tpu_compile decode.mlir --alias 4:2 9:3 --topology v6e:2x2

The compiler comes in the PyPI package `libtpu`; JAX calls it ahead of time for a described topology. Both stand in a
virtual environment of their own (dependency group `tpu-check`), since the server needs neither.

The module is the text that `lowering.export` makes. `--alias PARAMETER:OUTPUT` says that the output takes over the
parameter's buffer. Prints one JSON object, see `Compiled`.

This leans on private entry points of JAX: its public ones take functions of JAX, not a module.
"""

import argparse
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Read by libtpu when it is loaded: there is no metadata server to ask which TPU this is.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")

import numpy
from jax._src import compiler
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies

from benchmarks.hbm_traffic import Traffic, hbm_traffic


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a module. Sizes are bytes on one device, traffic is bytes per execution.

    Attributes:
        argument_bytes: weights, state and inputs, in the layout of the device.
        alias_bytes: outputs that take over the buffer of an argument.
        temp_bytes: the most that intermediate results take at one time.
        hbm_traffic_bytes: see `benchmarks.hbm_traffic`.
        flops: the compiler's own count.
        estimated_cycles: the compiler's own estimates, summed; it has none for some operations (scatter,
            gather, and dynamic-update-slice outside of fusions), so this compares programs only roughly.
        top: the instructions with the most traffic.
    """

    topology: str
    partitions: int
    compile_seconds: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    code_bytes: int
    hbm_traffic_bytes: int
    flops: float
    estimated_cycles: int
    top: list[Traffic]


def prepare(stablehlo: str, aliases: list[tuple[int, int]], partitions: int) -> str:
    """The module as the compiler wants it: with its number of partitions, and aliases as attributes of parameters."""
    counts = f"attributes {{mhlo.num_partitions = {partitions} : i32, mhlo.num_replicas = 1 : i32}}"
    text, replaced = re.subn(
        r"module @\S+ attributes \{[^}]*\}", f"module @program {counts}", stablehlo, count=1
    )
    if not replaced:
        raise ValueError(
            "this is not a StableHLO module as torch_xla writes it: its first line has no attributes"
        )
    for parameter, output in aliases:
        mark = rf"\1 {{tf.aliasing_output = {output} : i32}}"
        text, replaced = re.subn(rf"(%arg{parameter}: tensor<[^>]*>)", mark, text, count=1)
        if not replaced:
            raise ValueError(f"alias {parameter}:{output}: the module has no parameter {parameter}")
    return text


def compile_module(
    stablehlo: str, aliases: list[tuple[int, int]], topology: str, partitions: int, top: int
) -> tuple[Compiled, str]:
    """The facts, and the optimised program as HLO text.

    Args:
        topology: for example "v5e:2x2", "v6e:2x2", "v5p:2x2x1", "v4:2x2x1".
        partitions: devices that share the program (SPMD).
        top: how many of the instructions with the most traffic to name.
    """
    description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    devices = description.devices[:partitions]
    with mlir.make_ir_context():
        module = ir.Module.parse(prepare(stablehlo, aliases, partitions))
        options = compiler.get_compile_options(
            num_replicas=1,
            num_partitions=partitions,
            device_assignment=numpy.array([list(devices)]),
            backend=None,
        )
        started = time.perf_counter()
        executable: Any = compiler.backend_compile_and_load(
            devices[0].client, module, xla_client.DeviceList(tuple(devices)), options, []
        )
        seconds = time.perf_counter() - started
    hlo = executable.hlo_modules()[0].to_string()
    memory = executable.get_compiled_memory_stats()
    cost = executable.cost_analysis()
    traffic = hbm_traffic(hlo)
    entry = hlo[hlo.index("\nENTRY") :]
    compiled = Compiled(
        topology=topology,
        partitions=partitions,
        compile_seconds=round(seconds, 1),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        hbm_traffic_bytes=sum(moved.bytes for moved in traffic),
        flops=(cost if isinstance(cost, dict) else cost[0])["flops"],
        estimated_cycles=sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', entry)),
        top=traffic[:top],
    )
    return compiled, hlo


def alias(text: str) -> tuple[int, int]:
    """PARAMETER:OUTPUT as two numbers."""
    parameter, output = text.split(":")
    return int(parameter), int(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", type=Path, help="StableHLO text")
    parser.add_argument("--alias", nargs="*", type=alias, default=[], metavar="PARAMETER:OUTPUT")
    parser.add_argument("--topology", default="v5e:2x2", help="also v6e:2x2, v5p:2x2x1, v4:2x2x1, ...")
    parser.add_argument("--partitions", type=int, default=1, help="devices that share the program")
    parser.add_argument(
        "--top", type=int, default=0, help="name the N instructions with the most HBM traffic"
    )
    parser.add_argument("--hlo", type=Path, help="write the optimised program here")
    arguments = parser.parse_args()
    compiled, hlo = compile_module(
        arguments.module.read_text(), arguments.alias, arguments.topology, arguments.partitions, arguments.top
    )
    if arguments.hlo:
        arguments.hlo.write_text(hlo)
    print(json.dumps(asdict(compiled), indent=1))


if __name__ == "__main__":
    main()
