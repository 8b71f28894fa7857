"""What LoRA adapters cost, and why they lie side by side.

    python -m benchmarks.adapter_cost models/SmolLM2-135M-Instruct
    python -m benchmarks.adapter_cost --compiler .venv-tpu-check/bin/python

With a checkpoint: milliseconds of a decode step and of a prefill on this machine, with no adapter and with some, in
turns within one run. With a compiler: the bytes that a decode step of Llama-3-8B's layer shape moves on a TPU.

Adapters are random, of rank 16, on all linear layers but the head. Two ways to apply them:
- side by side: all adapters to all rows, and what is not the row's own is cut out (`engine.adapters.adapted`).
- copied: each row's adapter is gathered from stacks of equal rank, and multiplied row by row. Only measured here.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
import torch_xla
from torch import Tensor, nn

from benchmarks.report import median_and_spread, table
from benchmarks.tpu_export import DTYPE, llama3_two_layers
from text_generation_server.engine.contract import EngineLimits
from text_generation_server.engine.engine import ProgramKey, XlaEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import initial_state
from text_generation_server.lowering.export import export
from text_generation_server.model.adapters.adapted import AdaptedModel
from text_generation_server.model.adapters.reading import Adapter, LowRankUpdate
from text_generation_server.model.adapters.stacking import LayerStack, linear_shape, stack_adapters
from text_generation_server.model.checkpoint import load_config, load_model, probe
from text_generation_server.model.load import DEFAULT_WATERMARK
from text_generation_server.model.weights import store_transposed
from text_generation_server.sampling.parameters import SamplingParameters

RANK = 16
COUNTS = (1, 4, 16)
LENGTH = 512
PROMPT = 64
REPETITIONS = 8
STEPS = 10
OUTPUT = Path("out/adapter-cost")


class CopyingModel(AdaptedModel):
    """Gathers each row's adapter. All adapters have RANK places in each stack; the base model is a row of zeros."""

    def _add_updates(
        self, stack: LayerStack, layer: nn.Module, arguments: tuple[Tensor, ...], outputs: Tensor
    ) -> Tensor:
        assert self._indices is not None
        (inputs,) = arguments
        down = stack.down.view(stack.down.shape[0], -1, RANK).permute(1, 0, 2)
        up = stack.up.view(-1, RANK, stack.up.shape[1])
        index = torch.clamp(self._indices.to(torch.int64) - 1, min=0)
        inner = torch.matmul(inputs, down.index_select(0, index))
        inner = torch.where(
            self._indices.view(-1, 1, 1) > 0, inner, torch.zeros((), dtype=inner.dtype, device=inner.device)
        )
        return outputs + torch.matmul(inner, up.index_select(0, index))


WAYS: dict[str, type[AdaptedModel]] = {"side by side": AdaptedModel, "copied": CopyingModel}


def random_adapters(model: nn.Module, count: int) -> list[Adapter]:
    shapes = {name: linear_shape(layer) for name, layer in model.named_modules() if "lm_head" not in name}
    return [
        Adapter(
            f"adapter-{number}",
            {
                name: LowRankUpdate(torch.randn(RANK, shape[0]) * 0.01, torch.randn(shape[1], RANK) * 0.01)
                for name, shape in shapes.items()
                if shape is not None
            },
            {},
        )
        for number in range(count)
    ]


def build(
    model: Any, slots: int, length: int, dtype: torch.dtype, layout: CacheLayout, count: int, way: str
) -> XlaEngine:
    """An engine whose slots use the adapters in turn; `model` is on the host still."""
    shape, vocabulary = probe(model)
    device = torch_xla.device()
    adapters = random_adapters(model, count)
    stacks = stack_adapters(model, adapters, dtype)
    if layout is CacheLayout.HEADS:
        store_transposed(model)
    model.to(device)
    state = initial_state(shape, layout, slots, length, vocabulary, dtype, device)
    served = WAYS[way](model, {name: stack.to(device) for name, stack in stacks.items()}) if count else model
    names = tuple(adapter.name for adapter in adapters)
    limits = EngineLimits(slots, length, vocabulary, "any", "xla", adapters=names)
    return XlaEngine(served, state, limits, DEFAULT_WATERMARK, device)


VARIANTS = [(0, "side by side"), *((count, way) for count in COUNTS for way in WAYS)]


def title(count: int, way: str) -> list[str]:
    return ["none", ""] if count == 0 else [str(count), way]


def measure_here(checkpoint: Path, slots: int) -> str:
    """Milliseconds on this machine, a table in markdown."""
    config = load_config(checkpoint)
    engines = []
    for count, way in VARIANTS:
        model = load_model(checkpoint, config, LENGTH, torch.float32).model
        engines.append(build(model, slots, LENGTH, torch.float32, CacheLayout.HEADS, count, way))
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in engines]
    for repetition in range(1 + REPETITIONS):
        for engine, (prefills, decodes) in zip(engines, times, strict=True):
            names = engine.limits.adapters or (None,)
            fills = [
                milliseconds(partial(fill, engine, slot, names[slot % len(names)])) for slot in range(slots)
            ]
            steps = [milliseconds(partial(step, engine)) for _ in range(STEPS)]
            # The first time compiles.
            if repetition:
                prefills += fills
                decodes += steps[1:]
    plain = [statistics.median(kind) for kind in times[0]]
    rows = [
        [
            *title(count, way),
            *(
                f"{median_and_spread(kind)} (x {statistics.median(kind) / base:.2f})"
                for kind, base in zip(both, plain, strict=True)
            ),
        ]
        for (count, way), both in zip(VARIANTS, times, strict=True)
    ]
    return table(
        ["adapters", "way", f"prefill of {PROMPT} tokens, ms", f"decode step, {slots} slots, ms"], rows
    )


def fill(engine: XlaEngine, slot: int, adapter: str | None) -> None:
    engine.release(slot)
    prompt = [100 + slot + place for place in range(PROMPT)]
    engine.prefill(slot, prompt, SamplingParameters(), adapter=adapter).read()


def step(engine: XlaEngine) -> None:
    engine.decode().read()


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def compile_for_tpu(compiler: Path, topology: str) -> str:
    """Bytes and floating-point operations by the TPU compiler's own program, a table in markdown."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows = []
    plain: dict[str, Any] = {}
    for count, way in VARIANTS:
        subject = llama3_two_layers()
        engine = build(subject.model, subject.slots, subject.length, DTYPE, CacheLayout.LANES, count, way)
        cells = title(count, way)
        for key in (ProgramKey("forward", subject.length), ProgramKey("prefill", LENGTH)):
            compiled = compiled_for_tpu(compiler, topology, engine, key)
            base = plain.setdefault(key.kind, compiled)
            for figure, unit in (("hbm_traffic_bytes", "MB"), ("flops", "MFLOP"), ("temp_bytes", "MB")):
                ratio = f" (x {compiled[figure] / base[figure]:.2f})" if figure != "temp_bytes" else ""
                cells.append(f"{compiled[figure] / 1e6:.0f} {unit}{ratio}")
        rows.append(cells)
        del engine, subject
    figures = ("HBM traffic", "operations", "temporaries")
    return table(
        [
            "adapters",
            "way",
            *(f"{program}, {figure}" for program in ("decode", "prefill") for figure in figures),
        ],
        rows,
    )


def compiled_for_tpu(compiler: Path, topology: str, engine: XlaEngine, key: ProgramKey) -> dict[str, Any]:
    exported = export(engine.program(key))
    module = OUTPUT / f"{key.kind}.mlir"
    module.write_text(exported.stablehlo)
    aliases = [f"{parameter}:{output}" for parameter, output in exported.aliases]
    command = [
        str(compiler),
        "-m",
        "benchmarks.tpu_compile",
        str(module),
        "--topology",
        topology,
        "--alias",
        *aliases,
    ]
    environment = {**os.environ, "TPU_MIN_LOG_LEVEL": "2", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    compiled: dict[str, Any] = json.loads(done.stdout)
    return compiled


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="a directory with a checkpoint")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--compiler", type=Path, help="a python with the group tpu-check installed")
    parser.add_argument("--topology", default="v5e:2x2")
    arguments = parser.parse_args()
    if arguments.model:
        print(measure_here(arguments.model, arguments.slots))
    if arguments.compiler:
        print(compile_for_tpu(arguments.compiler, arguments.topology))


if __name__ == "__main__":
    main()
