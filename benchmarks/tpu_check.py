"""Are the engine's programs fit for a TPU? Asks the TPU compiler of production, on any machine (`make tpu-check`).

    python -m benchmarks.tpu_check                                     # all subjects and topologies
    python -m benchmarks.tpu_check --subject llama-3-70b --topology v6e:2x2

Models are recorded without weights, from their configuration alone, as the engine records them on a TPU, and compiled
for a topology that need not be there. It needs libtpu (the group tpu-check), which judges with the version that
production runs. Exits with 1 if a bound is missed. A program that the compiler refuses for its memory is told with the
compiler's numbers: a model that does not fit a chip shows so here.
"""

import argparse
import math
import os
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# libtpu looks for its machine, and waits for one that does not answer.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "2")
# There is no chip that another process could hold.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from importlib.metadata import version

import jax
from jax.experimental import topologies
from transformers import AutoConfig

from benchmarks.hbm_traffic import hbm_traffic
from benchmarks.report import table
from text_generation_server.engine import catalogue
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.rings import Ring
from text_generation_server.engine.sharding import ONE_CHIP
from text_generation_server.lowering.here import LoweringHere
from text_generation_server.lowering.loop import Loop
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.model.description import ModelDescription, ModelSource
from text_generation_server.model.quantisation.scheme import FP8, INT8, Scheme
from text_generation_server.runtime.compiler import Unmade
from text_generation_server.runtime.executable import COMPILER_OPTIONS, placements
from text_generation_server.runtime.kernels import COPIED_BLOCK, KEY_BLOCK
from text_generation_server.runtime.mesh import mesh_of
from text_generation_server.runtime.stablehlo import call_order, jitted, shapes
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.settings import ACCELERATOR_CHUNK

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
CHIP_BYTES = {"v5e": 16 * 2**30, "v6e": 32 * 2**30}


@dataclass(frozen=True)
class Subject:
    """A model by its configuration, and the static shape in which its programs are compiled.

    Attributes:
        most_traffic: bound of a greedy decode step's HBM traffic over the ideal, by topology.
        programs: which; None: all.
        made: in what linear layers are kept; None: in bfloat16.
        most_of_bfloat16: bound of what a decode step reads of the weights over what it would in bfloat16.
        cache_dtype: of the KV cache; None: bfloat16.
    """

    name: str
    config: dict[str, Any]
    slots: int
    length: int
    most_traffic: dict[str, float]
    programs: tuple[str, ...] | None = None
    made: Scheme | None = None
    most_of_bfloat16: float | None = None
    cache_dtype: CacheDtype | None = None


SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
GEMMA_2B = {
    "model_type": "gemma",
    "vocab_size": 256000,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
QWEN_2_5_1_5B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LLAMA_3_70B = LLAMA_3_1_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
MIXTRAL_8X7B = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
GEMMA_3_4B = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "max_position_embeddings": 131072,
}
LONG = ("extend 1x512", "extend 8x64", "forward 8192", "seat")
QUANTISED = ("extend 1x512", "forward 1024", "choose none")
SUBJECTS = [
    Subject("smollm2-135m", SMOLLM2, 8, 1024, {"v5e": 1.05, "v6e": 1.05}),
    Subject("smollm2-135m, 16 steps without the host", SMOLLM2, 8, 1024, {}, ("steps 16x1024",)),
    Subject("smollm2-135m", SMOLLM2, 8, 8192, {}, LONG),
    Subject("gemma-2b", GEMMA_2B, 8, 1024, {}),
    Subject("gemma-2b", GEMMA_2B, 4, 8192, {}, LONG),
    Subject("qwen2.5-1.5b", QWEN_2_5_1_5B, 8, 1024, {}),
    Subject("qwen2.5-1.5b", QWEN_2_5_1_5B, 4, 8192, {}, LONG),
    Subject("llama-3.1-8b", LLAMA_3_1_8B, 8, 1024, {"v6e": 1.05}),
    Subject("llama-3.1-8b", LLAMA_3_1_8B, 4, 8192, {}, LONG),
    Subject("llama-3.1-8b in int8", LLAMA_3_1_8B, 8, 1024, {}, QUANTISED, made=INT8, most_of_bfloat16=0.55),
    Subject("llama-3.1-8b in fp8", LLAMA_3_1_8B, 8, 1024, {}, QUANTISED, made=FP8, most_of_bfloat16=0.55),
    Subject(
        # As AutoAWQ and GPTQ without `sym` write it.
        "llama-3.1-8b in int4",
        LLAMA_3_1_8B,
        8,
        1024,
        {},
        QUANTISED,
        made=Scheme("int4", 128, offsets=True),
        most_of_bfloat16=0.32,
    ),
    *(
        Subject(
            f"four layers of llama-3.1-8b, KV cache in {dtype}",
            LLAMA_3_1_8B | {"num_hidden_layers": 4},
            32,
            4096,
            {"v5e": 1.1, "v6e": 1.1},
            ("extend 1x512", "forward 4096", "choose none", "seat"),
            cache_dtype=dtype,
        )
        for dtype in CacheDtype
    ),
    Subject(
        "smollm2-135m, KV cache in int8",
        SMOLLM2,
        8,
        8192,
        {"v5e": 1.1, "v6e": 1.1},
        ("forward 8192", "choose none", "seat"),
        cache_dtype=CacheDtype.INT8,
    ),
    Subject(
        "llama-3.1-8b, 32k",
        LLAMA_3_1_8B,
        1,
        32768,
        {},
        ("extend 1x512", "forward 32768", "seat"),
        made=INT8,
    ),
    Subject(
        "gemma-3-4b, 32k", GEMMA_3_4B, 4, 32768, {}, ("extend 1x512", "forward 32768", "choose none", "seat")
    ),
    Subject("llama-3-70b", LLAMA_3_70B, 8, 1024, {}, ("extend 1x512", "forward 1024", "choose none")),
]
ON_REQUEST = {"llama-3-70b"}
"""Left out unless named: it fits on no single chip, and shows so."""


@dataclass(frozen=True)
class Verdict:
    """What the compiler made of one program. Bytes; `refused` has its words instead if it would not compile."""

    program: str
    seconds: float
    arguments: int = 0
    donated: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0
    traffic: int = 0
    refused: str = ""


def recorded(subject: Subject, chips: int = 1) -> tuple[ModelDescription, list[LoweredProgram | Loop]]:
    """The programs as so many chips get them."""
    lowering = LoweringHere()
    with tempfile.TemporaryDirectory() as directory:
        kind = str(subject.config["model_type"])
        AutoConfig.for_model(**subject.config).save_pretrained(directory)
        source = ModelSource(Path(directory), None, "bfloat16", False, False, {}, made=subject.made)
        description = lowering.describe(source)
        assert description.model_type == kind
        shape = description.batch_shape(
            subject.slots,
            subject.length,
            CacheLayout.LANES,
            "bfloat16",
            ACCELERATOR_CHUNK,
            cache_dtype=subject.cache_dtype,
            chips=chips,
        )
        unmade = Unmade(subject.programs or catalogue.names(shape, scores_prompts=False))
        options = ProgramOptions(shape, WatermarkStrength(), exact_float32=False)
        parts = lowering.lower(options, unmade.parts)
        return description, [program for part in parts for program in unmade.complete(part)]


def most_trips(description: ModelDescription, program: str, length: int) -> int:
    """How often a loop runs of which a program does not say it: over the positions of a prompt's slot, or over the
    experts that were chosen; at most over all of them. `seat` has one over the blocks of a slot, `steps` one over its
    steps.
    """
    if catalogue.kind_of(program) == "steps":
        return catalogue.steps_and_length(program)[0]
    if program == "seat":
        return -(-length // COPIED_BLOCK)
    experts = [weight.shape[0] for weight in description.weights.values() if weight.stacked is not None]
    return max(-(-length // KEY_BLOCK), *experts, 0)


def judge(program: LoweredProgram | Loop, topology: str, unknown_trips: int) -> Verdict:
    """Compiles one program for one chip of a topology; `unknown_trips`: see `most_trips`."""
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    order, places = call_order(program), placements(program, mesh_of([device]), ONE_CHIP)
    started = time.perf_counter()
    try:
        lowered = jitted(program, order, places, "tpu").lower(*shapes(program, order, places))
        compiled = lowered.compile(compiler_options=COMPILER_OPTIONS["tpu"])
    except jax.errors.JaxRuntimeError as error:
        said = re.search(r"Ran out of memory[^.]*\.[^.]*\.[^.]*\.?", str(error))
        words = " ".join((said.group() if said else str(error)).split())[:200]
        return Verdict(program.name, time.perf_counter() - started, refused=words)
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    return Verdict(
        program.name,
        seconds,
        memory.argument_size_in_bytes,
        sum(program.parameters[place].nbytes for place in order.donated),
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        sum(part.bytes for part in hbm_traffic(compiled.as_text(), unknown_trips=unknown_trips)),
    )


def ideal_step(description: ModelDescription, subject: Subject) -> int:
    """The least that a decode step must move: each weight once, of a table that is not the head too only the rows of
    the tokens, and the whole cache once, rings with what they keep, without the lanes that a layout leaves unused."""
    ring = Ring(description.window, ACCELERATOR_CHUNK).size
    cache = sum(
        heads * size * (min(ring, subject.length) if index in description.sliding else subject.length)
        for index, layer in enumerate(description.layers)
        for heads, size in layer
    )
    # Scales of int8 are not counted: less would do.
    return subject.slots * cache * (1 if subject.cache_dtype else 2) + weights_read(
        description, subject.slots
    )


def weights_read(description: ModelDescription, slots: int, item_bytes: int | None = None) -> int:
    """What a decode step reads of the weights; `item_bytes`: if each number had so many."""
    total = 0
    for name, weight in description.weights.items():
        is_table = name.endswith("embed_tokens.weight") and any(
            other.endswith("lm_head.weight") for other in description.weights
        )
        if item_bytes is not None and weight.part not in (None, "weight"):
            continue
        size = weight.nbytes if item_bytes is None else math.prod(weight.shape) * item_bytes
        total += slots * weight.shape[1] * 2 if is_table else size
    return total


def largest_layer(description: ModelDescription) -> int:
    """Bytes of the largest weight in fewer bits, if it were in bfloat16."""
    return max(
        2 * math.prod(weight.shape) for weight in description.weights.values() if weight.part == "weight"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def row(verdict: Verdict) -> list[str]:
    if verdict.refused:
        return [verdict.program, f"{verdict.seconds:.1f}", "", "", "", "", "", f"REFUSED: {verdict.refused}"]
    whole = "all" if verdict.aliased >= verdict.donated else "NOT all"
    return [
        verdict.program,
        f"{verdict.seconds:.1f}",
        megabytes(verdict.arguments),
        f"{megabytes(verdict.aliased)} ({whole})",
        megabytes(verdict.temporaries),
        f"{verdict.code / 1e6:.1f} MB",
        megabytes(verdict.traffic),
        "",
    ]


def check(
    subject: Subject, topology: str, programs: list[LoweredProgram | Loop], description: ModelDescription
) -> list[str]:
    """Prints a table; returns the bounds that are missed, in words."""
    chip = topology.split(":")[0]
    title = f"{subject.name}, B={subject.slots}, S={subject.length}, one chip of {topology}"
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        trips = [most_trips(description, program.name, subject.length) for program in programs]
        judged = threads.map(judge, programs, repeat(topology), trips)
        verdicts = {verdict.program: verdict for verdict in judged}
    rows = [row(verdict) for verdict in verdicts.values()]
    missed = [
        f"{title}: {verdict.program} updates {verdict.aliased} of {verdict.donated} donated bytes in place"
        for verdict in verdicts.values()
        if not verdict.refused and verdict.aliased < verdict.donated
    ]
    ideal = ideal_step(description, subject)
    forward, choose = (verdicts.get(name) for name in (f"forward {subject.length}", "choose none"))
    if forward and choose and not (forward.refused or choose.refused):
        ratio = (forward.traffic + choose.traffic) / ideal
        moved = megabytes(forward.traffic + choose.traffic)
        rows.append(
            ["decode step, greedy", "", "", "", "", "", moved, f"{ratio:.2f} of the ideal {megabytes(ideal)}"]
        )
        if subject.most_of_bfloat16 is not None:
            cache = ideal - weights_read(description, subject.slots)
            part = (forward.traffic + choose.traffic - cache) / weights_read(description, subject.slots, 2)
            rows.append(["of its weights in bfloat16", "", "", "", "", "", f"{part:.3f}", ""])
            if part > subject.most_of_bfloat16:
                missed.append(
                    f"{title}: a decode step reads {part:.3f} of bfloat16, above {subject.most_of_bfloat16}"
                )
            missed += [
                f"{title}: {verdict.program} has {megabytes(verdict.temporaries)} of temporaries, which may be a weight"
                for verdict in verdicts.values()
                if verdict.temporaries > largest_layer(description)
            ]
        bound = subject.most_traffic.get(chip)
        if bound is not None and ratio > bound:
            missed.append(f"{title}: a decode step moves {ratio:.2f} of the ideal, above {bound}")
    code = sum(verdict.code for verdict in verdicts.values())
    print(f"\n{title}; code of these programs {code / 1e6:.0f} MB\n")
    headings = ["program", "compile s", "arguments", "aliased", "temporaries", "code", "HBM traffic", ""]
    print(table(headings, rows), flush=True)
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", action="append", choices=sorted({each.name for each in SUBJECTS}))
    parser.add_argument("--topology", action="append", help=f"by default {' and '.join(TOPOLOGIES)}")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print(f"jax {version('jax')}, libtpu {version('libtpu')}")
    missed = []
    for subject in SUBJECTS:
        wanted = subject.name in arguments.subject if arguments.subject else subject.name not in ON_REQUEST
        if not wanted:
            continue
        description, programs = recorded(subject)
        for topology in arguments.topology or TOPOLOGIES:
            missed += check(subject, topology, programs, description)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\n{time.perf_counter() - started:.0f} s, at most {peak:.1f} GB of host memory")
    if missed:
        sys.exit("Bounds missed:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
