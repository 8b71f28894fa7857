"""What transformers answers from weights that lost bits: checkpoints in which that is done by plain arithmetic."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D


def int8_and_back(weight: Tensor) -> Tensor:
    """[outputs, inputs], each row by its largest value."""
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(weight / scales) * scales


def fp8_and_back(weight: Tensor) -> Tensor:
    scales = weight.abs().amax(dim=1, keepdim=True) / 448
    return (weight / scales).to(torch.float8_e4m3fn).to(weight.dtype) * scales


MADE = {"int8": int8_and_back, "fp8": fp8_and_back}


def linear_layers(model: Any) -> dict[str, Any]:
    """All but the head, by name."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head
    }


def dequantised(checkpoint: Path, directory: Path, quantize: str) -> Path:
    """The checkpoint after its linear layers were made --quantize and numbers again."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for layer in linear_layers(model).values():
        weight = layer.weight.data
        outputs_first = isinstance(layer, torch.nn.Linear)
        made = MADE[quantize](weight if outputs_first else weight.T)
        layer.weight.data = (made if outputs_first else made.T).contiguous()
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            # Of experts, [experts, outputs, inputs]; those of gpt-oss the other way round.
            turned = model.config.model_type == "gpt_oss"
            matrices = [MADE[quantize](each.T if turned else each) for each in parameter.data]
            parameter.data = torch.stack([each.T if turned else each for each in matrices])
    model.save_pretrained(directory)
    return directory


GROUP = 32


@dataclass(frozen=True)
class Packed:
    """A format in which tools write checkpoints.

    Attributes:
        config: the quantization_config that they write.
        pack: of the weight [outputs, inputs] of a layer the tensors that the format has for it, and the weight that
            they mean.
    """

    config: dict[str, Any]
    pack: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]


def in_groups(
    weight: Tensor, bits: int, symmetric: bool, groups: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and zeros from 0 on, scales (float16), and what they mean; `groups` [inputs] says which scale each has."""
    count = int(groups.max()) + 1
    most = 2**bits - 1
    scales = torch.zeros(count, len(weight))
    zeros = torch.full((count, len(weight)), 2 ** (bits - 1))
    for group in range(count):
        part = weight[:, groups == group]
        if symmetric:
            scales[group] = part.abs().amax(dim=1) / (most // 2)
        else:
            low, high = part.amin(dim=1).clamp(max=0), part.amax(dim=1).clamp(min=0)
            scales[group] = (high - low) / most
            zeros[group] = torch.round(-low / scales[group]).clamp(0, most)
    scales = scales.half().float()
    by_input, zero_by_input = scales[groups].T, zeros[groups].T
    values = (torch.round(weight / by_input) + zero_by_input).clamp(0, most).int()
    return values, zeros, scales, (values - zero_by_input) * by_input


def in_words(values: Tensor, bits: int, columns: Sequence[int] | None = None) -> Tensor:
    """[rows, columns] -> int32 [rows, columns * bits / 32]; `columns`: which of a word comes first, second, ..."""
    count = 32 // bits
    grouped = values.long().reshape(len(values), -1, count)
    words = torch.zeros(grouped.shape[:2], dtype=torch.int64)
    for place, column in enumerate(columns or range(count)):
        words += grouped[:, :, column] << (bits * place)
    return torch.where(words < 2**31, words, words - 2**32).int()


def following(weight: Tensor) -> Tensor:
    return torch.arange(weight.shape[1]) // GROUP


def gptq(weight: Tensor, symmetric: bool, act_order: bool, shift: int) -> tuple[dict[str, Tensor], Tensor]:
    groups = following(weight)
    if act_order:
        groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(1))]
    values, zeros, scales, meant = in_groups(weight, 4, symmetric, groups)
    if shift:
        # The first version of the format cannot say zero.
        values, zeros = (values, zeros.clamp(min=1))
        meant = (values - zeros[groups].T) * scales[groups].T
    return {
        "qweight": in_words(values, 4).T.contiguous(),
        "qzeros": in_words(zeros - shift, 4),
        "scales": scales.half(),
        "g_idx": groups.int(),
    }, meant


def awq(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    values, zeros, scales, meant = in_groups(weight, 4, False, following(weight))
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        "qweight": in_words(values.T.contiguous(), 4, order),
        "qzeros": in_words(zeros, 4, order),
        "scales": scales.half(),
    }, meant


def pack_quantized(
    weight: Tensor, bits: int, symmetric: bool = True, act_order: bool = False, whole: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    groups = torch.zeros(weight.shape[1], dtype=torch.int64) if whole else following(weight)
    if act_order:
        groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(2))]
    values, zeros, scales, meant = in_groups(weight, bits, symmetric, groups)
    tensors = {
        "weight_packed": in_words(values, bits),
        "weight_scale": scales.T.contiguous().half(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = in_words(zeros.T.contiguous().T.contiguous(), bits).T.contiguous()
    if act_order:
        tensors["weight_g_idx"] = groups.int()
    return tensors, meant


def float8(weight: Tensor, kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """`kind`: one scale for each "tensor", "output" or "block"."""
    if kind == "tensor":
        scales = (weight.abs().max() / 448).reshape(())
        each = scales.expand(weight.shape)
    elif kind == "output":
        scales = weight.abs().amax(dim=1, keepdim=True) / 448
        each = scales.expand(weight.shape)
    else:
        blocks = weight.reshape(len(weight) // GROUP, GROUP, -1, GROUP)
        scales = blocks.abs().amax(dim=(1, 3)) / 448
        each = scales.repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)
    values = (weight / each).to(torch.float8_e4m3fn)
    name = "weight_scale_inv" if kind == "block" else "weight_scale"
    return {"weight": values, name: scales.contiguous()}, values.float() * each


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
PACKED = {
    "gptq": Packed(
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False},
        partial(gptq, symmetric=True, act_order=False, shift=1),
    ),
    "gptq with zeros and act order": Packed(
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": True},
        partial(gptq, symmetric=False, act_order=True, shift=1),
    ),
    "gptq_v2": Packed(
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": GROUP,
            "sym": False,
            "checkpoint_format": "gptq_v2",
        },
        partial(gptq, symmetric=False, act_order=False, shift=0),
    ),
    "awq": Packed(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, awq
    ),
    "compressed-tensors w4a16": Packed(
        compressed("pack-quantized", **INT4, symmetric=True), partial(pack_quantized, bits=4)
    ),
    "compressed-tensors w4a16 with zeros and act order": Packed(
        compressed("pack-quantized", **INT4, symmetric=False, actorder="group"),
        partial(pack_quantized, bits=4, symmetric=False, act_order=True),
    ),
    "compressed-tensors w8a16": Packed(
        compressed("pack-quantized", num_bits=8, type="int", strategy="channel", symmetric=True),
        partial(pack_quantized, bits=8, whole=True),
    ),
    "compressed-tensors fp8": Packed(
        compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True),
        partial(float8, kind="output"),
    ),
    "fp8 for each tensor": Packed(
        {"quant_method": "fp8", "activation_scheme": "static"}, partial(float8, kind="tensor")
    ),
    "fp8 in blocks": Packed(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [GROUP, GROUP]},
        partial(float8, kind="block"),
    ),
    "fbgemm_fp8": Packed({"quant_method": "fbgemm_fp8"}, partial(float8, kind="output")),
}


def packed(checkpoint: Path, directory: Path, name: str) -> Path:
    """A checkpoint in a format of PACKED; beside it, in `directory` / "meant", the same in numbers for transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tensors = load_file(checkpoint / "model.safetensors")
    for layer, module in linear_layers(model).items():
        parts, meant = PACKED[name].pack(tensors.pop(f"{layer}.weight"))
        tensors |= {f"{layer}.{part}": tensor.clone() for part, tensor in parts.items()}
        module.weight.data = meant.contiguous()
    model.save_pretrained(directory / "meant")
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = PACKED[name].config
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
STEPS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4(checkpoint: Path, directory: Path) -> Path:
    """A checkpoint of gpt-oss as OpenAI writes it: experts in 4 bits, outputs first, and an exponent for 32 inputs."""
    tensors = load_file(checkpoint / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        weight = tensors.pop(name).transpose(1, 2)
        groups = weight.reshape(*weight.shape[:2], -1, 32)
        exponents = torch.floor(torch.log2(groups.abs().amax(dim=3, keepdim=True))) - 2
        scaled = groups / 2**exponents
        nearest = (scaled.abs().unsqueeze(-1) - STEPS).abs().argmin(-1) + 8 * (scaled < 0)
        tensors[f"{name}_blocks"] = (nearest[..., 0::2] + 16 * nearest[..., 1::2]).to(torch.uint8)
        tensors[f"{name}_scales"] = (exponents[..., 0] + 127).to(torch.uint8)
    directory.mkdir()
    config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": MXFP4}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
