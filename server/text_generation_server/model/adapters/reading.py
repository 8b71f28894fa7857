"""A PEFT adapter directory -> its low-rank updates on the host, or the reason why it cannot be served.

What counts is what changes the result: `adapter_config.json` may only ask for plain LoRA (Hu et al., 2021, with
rsLoRA's scale), and each tensor must be half of a low-rank update. Everything else is refused by its name, so
that an adapter never answers as something that it is not.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from text_generation_server.errors import InvalidSettingError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Entries of PEFT's LoraConfig that only training reads, or whose outcome the tensors show.
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
}
READ = {"alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "task_type", "use_rslora"}

INITIALISATIONS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Those that leave the base model's weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them."""

HALF_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
# PEFT's name for the weight of a layer that it wraps has "base_layer" in it.
COPY_NAME = re.compile(r"base_model\.model\.(?P<module>.+?)(\.base_layer)?\.weight")


@dataclass(frozen=True)
class LowRankUpdate:
    """What an adapter adds to one linear layer: up(down(x)).

    Attributes:
        down: [rank, inputs] float32, PEFT's A.
        up: [outputs, rank] float32, PEFT's B times the adapter's scale.
    """

    down: NDArray[np.float32]
    up: NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on the host.

    Attributes:
        name: what requests call it.
        updates: by the name of the linear layer in the base model.
        weights: weights of the model itself, by their name in it. PEFT saves those of the embedding and of the head
            with an adapter that targets one of them. They must be the model's own.
    """

    name: str
    updates: dict[str, LowRankUpdate]
    weights: dict[str, NDArray[Any]]

    @property
    def largest_rank(self) -> int:
        return max(int(update.down.shape[0]) for update in self.updates.values())


def refusal(name: str, reason: str) -> InvalidSettingError:
    """The error for an adapter that cannot be served."""
    return InvalidSettingError(f"LORA_ADAPTERS: adapter {name} cannot be served: {reason}")


def read_adapter(name: str, directory: Path) -> Adapter:
    """Reads and checks an adapter, but for what depends on the model.

    Raises:
        InvalidSettingError: files are missing or damaged, or the adapter is more than plain LoRA.
    """
    config = read_config(name, directory)
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise refusal(name, f"{directory / WEIGHTS} cannot be read: {error}") from error
    halves: dict[str, dict[str, NDArray[Any]]] = {}
    weights: dict[str, NDArray[Any]] = {}
    for tensor_name, tensor in tensors.items():
        if half := HALF_NAME.fullmatch(tensor_name):
            halves.setdefault(half["module"], {})[half["half"]] = tensor.astype(np.float32)
        elif copy := COPY_NAME.fullmatch(tensor_name):
            weights[f"{copy['module']}.weight"] = tensor
        else:
            raise refusal(
                name,
                f"its tensor {tensor_name} is no half of a low-rank update of a linear layer. Train it with "
                "target_modules that are linear layers",
            )
    if not halves:
        raise refusal(name, f"{directory / WEIGHTS} holds no low-rank updates")
    updates = {module: update(name, module, half, config) for module, half in halves.items()}
    return Adapter(name, updates, weights)


def read_config(name: str, directory: Path) -> dict[str, Any]:
    """The entries of adapter_config.json, if all that they ask for is done here.

    Raises:
        InvalidSettingError: with the entry that is not.
    """
    if not (directory / CONFIG).is_file():
        raise refusal(name, f"{directory} has no {CONFIG}. Give a directory with a PEFT adapter in it")
    if not (directory / WEIGHTS).is_file():
        hint = (
            "pickles are not read. Load adapter_model.bin with PEFT, and save it with safe_serialization=True"
            if (directory / "adapter_model.bin").is_file()
            else "give a directory that PEFT's save_pretrained wrote"
        )
        raise refusal(name, f"{directory} has no {WEIGHTS}: {hint}")
    try:
        config = json.loads((directory / CONFIG).read_text())
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise refusal(name, f"{directory / CONFIG} cannot be read: {error}") from error
    if config.get("peft_type") != "LORA":
        raise refusal(name, f"peft_type is {config.get('peft_type')!r}. Only 'LORA' is supported")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise refusal(name, f"task_type is {config['task_type']!r}. Only 'CAUSAL_LM' generates text")
    if config.get("bias", "none") != "none":
        raise refusal(name, f"bias is {config['bias']!r}. Only 'none' is supported")
    if config.get("init_lora_weights") not in INITIALISATIONS:
        raise refusal(
            name,
            f"init_lora_weights is {config['init_lora_weights']!r}, which changes the base model's weights. Save the "
            "adapter with path_initial_model_for_weight_conversion, which makes it plain LoRA",
        )
    alphas = [config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()]
    if not all(isinstance(alpha, int | float) for alpha in alphas):
        raise refusal(
            name, f"lora_alpha and alpha_pattern must have numbers, for example 16. Given: {alphas}"
        )
    for pattern in config.get("alpha_pattern") or {}:
        try:
            re.compile(pattern)
        except re.error as error:
            raise refusal(
                name, f"alpha_pattern has {pattern!r}, which is no regular expression: {error}"
            ) from error
    for entry in sorted(set(config) - READ - WITHOUT_EFFECT):
        if config[entry]:
            raise refusal(
                name,
                f"{entry} is {config[entry]!r}, which is not supported. Train it without, or remove the entry if it "
                "does not change what the adapter computes",
            )
    return config


def update(name: str, module: str, half: dict[str, NDArray[Any]], config: dict[str, Any]) -> LowRankUpdate:
    """Both halves of one update, with PEFT's scale: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

    Raises:
        InvalidSettingError: one half is missing, they do not fit together, or have values that are no numbers.
    """
    if set(half) != {"A", "B"}:
        raise refusal(name, f"{module} has only lora_{next(iter(half))}. Both lora_A and lora_B are needed")
    down, up = half["A"], half["B"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise refusal(
            name,
            f"lora_A {list(down.shape)} and lora_B {list(up.shape)} of {module} do not fit together: they must "
            "be [rank, inputs] and [outputs, rank]",
        )
    rank = down.shape[0]
    scale = alpha(module, config) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    scaled = LowRankUpdate(down, up * np.float32(scale))
    if not (np.isfinite(down).all() and np.isfinite(scaled.up).all()):
        # The rows of all adapters pass through one multiplication, and zero times infinity is not zero.
        raise refusal(name, f"{module} has values that are infinite or NaN. The training went wrong")
    return scaled


def alpha(module: str, config: dict[str, Any]) -> float:
    """The first entry of alpha_pattern that matches the end of the name (PEFT's `get_pattern_key`), or lora_alpha."""
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return float(config["lora_alpha"])
