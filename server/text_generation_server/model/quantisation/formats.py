"""How checkpoints that come quantised keep a linear layer, as data. No torch here.

A format is known by `quantization_config` in config.json; which layers it has is told by the names of the tensors.
Layouts are those that the tools that write them document: AutoGPTQ and GPTQModel, AutoAWQ, compressed-tensors
(llm-compressor), and the fp8 of Meta (fbgemm), Qwen and DeepSeek. Activations are never quantised here, whatever a
checkpoint asks for: that is nearer to the model from which it was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.quantisation import mxfp4

Packing = Literal["none", "rows of inputs", "interleaved outputs", "outputs first"]
"""How values of few bits lie in int32: not at all; [inputs / n, outputs]; [inputs, outputs / n] in AutoAWQ's order of
columns; [outputs, inputs / n]."""


@dataclass(frozen=True)
class Format:
    """One format of stored layers.

    Attributes:
        name: for people.
        quantize: what --quantize may say of it.
        values, scales: last parts of the names of a layer's tensors.
        zeros: of the values that stand for zero; there in all layers, or only in some. Empty: zero is zero.
        groups_of: of the group of each input.
        unread: other tensors of a layer, which are not needed.
        packing: of values (and zeros).
        bits: of a value; 0: it is fp8 (e4m3).
        zero_shift: added to the zeros as they are stored.
        outputs_first: scales are [outputs, groups], or else [groups, outputs].
        blocks: a scale serves a block of so many outputs and inputs.
        symmetric: zero is in the middle of the values.
        reordered: the inputs of a group need not follow each other.
    """

    name: str
    quantize: tuple[str, ...]
    values: str
    scales: str
    zeros: str = ""
    groups_of: str = ""
    unread: tuple[str, ...] = ()
    packing: Packing = "none"
    bits: int = 0
    zero_shift: int = 0
    outputs_first: bool = True
    blocks: tuple[int, int] | None = None
    symmetric: bool = True
    reordered: bool = False

    @property
    def dtype(self) -> str:
        """Of the values on the device."""
        return {0: "float8_e4m3fn", 4: "int4", 8: "int8"}[self.bits]

    @property
    def parts(self) -> tuple[str, ...]:
        """Last parts of the names of all tensors that a layer may have beside its bias."""
        read = (self.values, self.scales, self.zeros, self.groups_of)
        return tuple(part for part in (*read, *self.unread) if part)


SUPPORTED = (
    "gptq and awq with 4 bits, compressed-tensors with int4 or int8 in groups or for each output or with fp8, "
    "fbgemm_fp8, fp8 with scales for blocks or tensors, and the mxfp4 of gpt-oss"
)


def format_of(config: Mapping[str, Any]) -> Format | None:
    """The format of a checkpoint by its config.json; None if its linear layers are not quantised, as those of gpt-oss,
    whose experts are read by `model.stacked`.

    Raises UnsupportedModelError for one that is not read.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if not found or (isinstance(found, Mapping) and found.get("quant_method") == mxfp4.METHOD):
        return None
    try:
        read = READERS[found["quant_method"]]
    except (KeyError, TypeError):
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        raise refusal(f"quant_method {method!r}") from None
    return read(found)


def refusal(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"quantization_config in config.json has {what}, which is not supported. Supported: {SUPPORTED}. The "
        "checkpoint in bfloat16 works too, also with --quantize int8 or fp8"
    )


def gptq(config: Mapping[str, Any]) -> Format:
    if config.get("bits") != 4:
        raise refusal(f"gptq with bits={config.get('bits')}")
    if config.get("dynamic"):
        raise refusal("gptq with other numbers of bits for some layers (dynamic)")
    kind = config.get("checkpoint_format", "gptq")
    if kind not in ("gptq", "gptq_v2"):
        raise refusal(f"gptq with checkpoint_format={kind!r}")
    return Format(
        "gptq",
        ("gptq",),
        "qweight",
        "scales",
        "qzeros",
        "g_idx",
        packing="rows of inputs",
        bits=4,
        # The first version stores one less than the zero.
        zero_shift=1 if kind == "gptq" else 0,
        outputs_first=False,
        symmetric=bool(config.get("sym", True)),
        reordered=bool(config.get("desc_act", False)),
    )


def awq(config: Mapping[str, Any]) -> Format:
    bits = config.get("bits", config.get("w_bit"))
    if bits != 4:
        raise refusal(f"awq with bits={bits}")
    version = str(config.get("version", "gemm")).lower()
    if version != "gemm":
        raise refusal(f"awq with version={version!r}")
    return Format(
        "awq",
        ("awq",),
        "qweight",
        "scales",
        "qzeros",
        packing="interleaved outputs",
        bits=4,
        outputs_first=False,
        symmetric=False,
    )


def compressed_tensors(config: Mapping[str, Any]) -> Format:
    groups = list((config.get("config_groups") or {}).values())
    schemes = [group.get("weights") or {} for group in groups]
    kinds = {(each.get("type"), each.get("num_bits"), each.get("symmetric", True)) for each in schemes}
    if len(kinds) != 1:
        raise refusal(f"compressed-tensors with {len(kinds)} kinds of weights")
    kind, bits, symmetric = kinds.pop()
    names = {str(group.get("format") or config.get("format")) for group in groups}
    layout = names.pop() if len(names) == 1 else "several formats"
    known = {("pack-quantized", "int", 4), ("pack-quantized", "int", 8), ("int-quantized", "int", 8)}
    known |= {("float-quantized", "float", 8), ("naive-quantized", "int", 8), ("naive-quantized", "float", 8)}
    if (layout, kind, bits) not in known:
        raise refusal(
            f"compressed-tensors with format={layout!r} and weights of {bits} bits of type {kind!r}"
        )
    if config.get("sparsity_config", {}).get("format", "dense") != "dense":
        raise refusal("compressed-tensors with a sparsity_config")
    if config.get("kv_cache_scheme"):
        raise refusal("compressed-tensors with a kv_cache_scheme")
    packed = layout == "pack-quantized"
    block = next((each["block_structure"] for each in schemes if each.get("block_structure")), None)
    return Format(
        "compressed-tensors",
        ("compressed-tensors",),
        "weight_packed" if packed else "weight",
        "weight_scale",
        "" if symmetric else "weight_zero_point",
        "weight_g_idx" if packed else "",
        ("weight_shape", "input_scale", "input_zero_point"),
        packing="outputs first" if packed else "none",
        bits=int(bits or 0) if kind == "int" else 0,
        blocks=(block[0], block[1]) if block else None,
        symmetric=symmetric,
        # "weight" and "static" mean that the inputs were sorted, and groups follow each other again.
        reordered=any(each.get("actorder") == "group" for each in schemes),
    )


def fp8(config: Mapping[str, Any]) -> Format:
    if config.get("fmt", "e4m3") != "e4m3":
        raise refusal(f"fp8 with fmt={config['fmt']!r}")
    block = config.get("weight_block_size")
    return Format(
        "fp8",
        ("fp8",),
        "weight",
        "weight_scale_inv" if block else "weight_scale",
        unread=("input_scale", "activation_scale"),
        blocks=(block[0], block[1]) if block else None,
    )


def fbgemm_fp8(config: Mapping[str, Any]) -> Format:
    return Format(
        "fbgemm_fp8",
        ("fp8", "fbgemm_fp8"),
        "weight",
        "weight_scale",
        unread=("input_scale_ub", "input_scale"),
    )


READERS = {
    "gptq": gptq,
    "awq": awq,
    "compressed-tensors": compressed_tensors,
    "fp8": fp8,
    "fbgemm_fp8": fbgemm_fp8,
}
"""By quant_method."""
