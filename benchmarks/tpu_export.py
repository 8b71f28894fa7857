"""Exports the engine's programs as StableHLO, with what is needed to judge what a compiler makes of them.

    python -m benchmarks.tpu_export smollm2 out/tpu-check/smollm2

Runs on a machine without a TPU. Weights are left as nn.Linear holds them, as they are on a TPU.
"""

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from text_generation_server.engine import attention
from text_generation_server.engine.contract import EngineLimits
from text_generation_server.engine.engine import ProgramKey, XlaEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import initial_state
from text_generation_server.lowering.export import export
from text_generation_server.model.checkpoint import load_config, load_model, probe
from text_generation_server.model.load import DEFAULT_WATERMARK
from text_generation_server.sampling.parameters import Processing

DEMO_MODEL = Path("models/SmolLM2-135M-Instruct")
PREFILL_TOKENS = 512
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class ExportedFacts:
    """Stands beside the StableHLO of a program, as JSON.

    Attributes:
        model: its name and static shape, for people.
        program: as the engine names it, for example "forward 2048".
        aliases: (parameter, output) pairs of donated buffers.
        donated_bytes: size of those buffers. Of "prefill" and "forward" it is the whole cache.
        ideal_bytes: the least that the program must move. "forward": each weight and the cache once. "prefill": each
            weight and one slot's part of the cache once. Of an embedding table that is not also the head, only
            the rows of the tokens count. "choose": the logits read and the scores written once, and, with any
            processing, the counts read and written.
    """

    model: str
    program: str
    aliases: list[tuple[int, int]]
    donated_bytes: int
    ideal_bytes: int


@dataclass(frozen=True)
class Subject:
    """A model on the host, and the static shape in which it is exported."""

    name: str
    model: Any
    slots: int
    length: int


def smollm2() -> Subject:
    """The demo model: 30 layers, 3 heads of 64 in the cache, head tied to the embedding."""
    return Subject(
        "SmolLM2-135M", load_model(DEMO_MODEL, load_config(DEMO_MODEL), 1024, DTYPE).model, 8, 1024
    )


def llama3_two_layers() -> Subject:
    """Two layers, embedding and head of Llama-3-8B's shape: 8 heads of 128 in the cache. All weights are zero."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    attention.register()
    # Without "meta", random numbers would be drawn for a billion weights.
    with torch.device("meta"):
        model: Any = LlamaForCausalLM._from_config(
            config, attn_implementation=attention.IMPLEMENTATION, dtype=DTYPE
        )
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    # The rotary frequencies are a buffer, which to_empty left without values.
    model.model.rotary_emb.__init__(config)
    return Subject("Llama-3-8B, 2 layers", model.eval(), 32, 2048)


SUBJECTS = {"smollm2": smollm2, "llama3-8b-2-layers": llama3_two_layers}


def weight_bytes(model: Any, tokens: int) -> int:
    """What a program with this many tokens must read of the weights."""
    total: int = sum(parameter.nbytes for parameter in model.parameters())
    embedding: Tensor = model.get_input_embeddings().weight
    if embedding is model.get_output_embeddings().weight:
        return total
    return total - embedding.nbytes + tokens * embedding[0].nbytes


def export_subject(subject: Subject, destination: Path) -> None:
    """Writes <file>.mlir and <file>.json for those programs of a model that differ in kind."""
    model, slots, length = subject.model, subject.slots, subject.length
    shape, vocabulary = probe(model)
    device = torch.device("xla")
    model.to(device)
    # Moving parameters to an XLA device unties them.
    model.tie_weights()
    state = initial_state(shape, CacheLayout.LANES, slots, length, vocabulary, DTYPE, device)
    # Without the lanes that the layout leaves unused: an ideal that grew with the layout could not judge it.
    per_token = sum(heads * head_dim for layer in shape.layers for heads, head_dim in layer)
    cache = slots * length * per_token * DTYPE.itemsize
    scores_row = vocabulary * (DTYPE.itemsize + torch.float32.itemsize)
    counts_row = vocabulary * torch.int32.itemsize
    ideal_bytes = {
        "forward": (ProgramKey("forward", length), weight_bytes(model, slots) + cache),
        "choose-none": (ProgramKey("choose", Processing.NONE), slots * scores_row),
        "choose-everything": (
            ProgramKey("choose", Processing.EVERYTHING),
            slots * (scores_row + 2 * counts_row),
        ),
        "prefill": (
            ProgramKey("prefill", PREFILL_TOKENS),
            weight_bytes(model, PREFILL_TOKENS) + cache // slots,
        ),
    }
    limits = EngineLimits(slots, length, vocabulary, "bfloat16", "xla")
    engine = XlaEngine(model, state, limits, DEFAULT_WATERMARK, device)
    destination.mkdir(parents=True, exist_ok=True)
    title = f"{subject.name}, B={slots}, S={length}"
    for file_name, (key, ideal) in ideal_bytes.items():
        exported = export(engine.program(key))
        facts = ExportedFacts(title, str(key), exported.aliases, exported.donated_bytes, ideal)
        (destination / f"{file_name}.mlir").write_text(exported.stablehlo)
        (destination / f"{file_name}.json").write_text(json.dumps(asdict(facts), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=SUBJECTS)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    export_subject(SUBJECTS[arguments.model](), arguments.destination)


if __name__ == "__main__":
    main()
