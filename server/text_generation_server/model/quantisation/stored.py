"""The layers of a checkpoint that comes quantised: which it has, and what of them goes to the device. No torch here."""

import json
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401 - makes numpy know int4 by its name
import numpy as np
from numpy.typing import NDArray

from text_generation_server.errors import UnsupportedModelError
from text_generation_server.model.checkpoint import OpenCheckpoint, TensorHeaders
from text_generation_server.model.quantisation.formats import Format, format_of
from text_generation_server.model.quantisation.packing import AWQ_COLUMNS, WORD, unpacked
from text_generation_server.model.quantisation.scheme import Part, Scheme


@dataclass(frozen=True)
class StoredLayer:
    """One layer, as the headers of its tensors describe it.

    Attributes:
        name: what its tensors' names begin with.
    """

    name: str
    format: Format
    inputs: int
    outputs: int
    scheme: Scheme

    @property
    def shape(self) -> tuple[int, int]:
        """Of its weight, as a checkpoint that is not quantised would have it."""
        return self.outputs, self.inputs

    def read(self, tensors: OpenCheckpoint) -> dict[Part, NDArray[Any]]:
        """What the device gets, see `scheme`. Raises ValueError for values that cannot be right."""
        values = self._values(tensors)
        scales = self._scales(tensors)
        group = self.scheme.group or self.inputs
        order = self._order(tensors, group) if self.format.groups_of else None
        zeros = self._zeros(tensors, scales.shape)
        if order is not None and not self.scheme.ordered:
            raise ValueError(
                f"{self.format.groups_of} does not count up, though config.json says desc_act=false"
            )
        if order is not None:
            values = values[order]
        shapes = self.scheme.shapes(self.inputs, self.outputs)
        parts: dict[Part, NDArray[Any]] = {
            "weight": values.astype(self.scheme.values).reshape(shapes["weight"]),
            "scales": scales,
        }
        if self.scheme.offsets:
            parts["offsets"] = -zeros * scales
        elif zeros.any():
            raise ValueError(f"{self.format.zeros} are not in the middle, though config.json says sym=true")
        if self.scheme.ordered:
            parts["order"] = np.arange(self.inputs) if order is None else order
        return parts

    def _tensor(self, part: str) -> str:
        return f"{self.name}.{part}"

    def _values(self, tensors: OpenCheckpoint) -> NDArray[Any]:
        """[inputs, outputs], zero in the middle."""
        stored, bits = tensors.read(self._tensor(self.format.values)), self.format.bits
        if self.format.packing == "none":
            return stored.T
        if self.format.packing == "rows of inputs":
            values = unpacked(stored.T, bits).T
        elif self.format.packing == "interleaved outputs":
            values = awq_unpacked(stored)
        else:
            values = unpacked(stored, bits).T
        if bits == 8:
            return (values ^ np.uint8(128)).view(np.int8)
        return values.view(np.int8) - np.int8(8)

    def _scales(self, tensors: OpenCheckpoint) -> NDArray[np.float32]:
        """[groups, outputs]."""
        name = self._tensor(self.format.scales)
        scales: NDArray[np.float32] = tensors.read(name).astype(np.float32)
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise ValueError(f"{name} has values that are no scales (negative, or not finite)")
        if scales.size == 1:
            return np.full((1, self.outputs), scales.reshape(()), np.float32)
        if self.format.blocks is not None:
            blocks: NDArray[np.float32] = np.repeat(scales, self.format.blocks[0], axis=0)[: self.outputs].T
            return blocks
        if scales.ndim == 1:
            return scales[None, :]
        turned: NDArray[np.float32] = scales.T
        return turned if self.format.outputs_first else scales

    def _zeros(self, tensors: OpenCheckpoint, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """[groups, outputs], by how much they are away from the middle."""
        if not self.format.zeros:
            return np.zeros(shape, np.float32)
        stored, bits = tensors.read(self._tensor(self.format.zeros)), self.format.bits
        middle = 2 ** (bits - 1)
        if stored.dtype == np.int8:
            return stored.T.astype(np.float32)
        if self.format.packing == "interleaved outputs":
            zeros = awq_unpacked(stored)
        elif self.format.packing == "rows of inputs":
            zeros = unpacked(stored, bits)
        else:
            # Packed along the outputs, which are a multiple of the number in a word or filled up.
            zeros = unpacked(stored.T, bits)[:, : self.outputs]
        return zeros.astype(np.float32) + np.float32(self.format.zero_shift - middle)

    def _order(self, tensors: OpenCheckpoint, group: int) -> NDArray[np.int32] | None:
        """The inputs, those of the first group first; None if they are in that order."""
        name = self._tensor(self.format.groups_of)
        if name not in tensors:
            return None
        groups = tensors.read(name).astype(np.int64)
        wanted = np.arange(self.inputs) // group
        if np.array_equal(groups, wanted):
            return None
        order = np.argsort(groups, kind="stable")
        if not np.array_equal(groups[order], wanted):
            raise ValueError(f"{name} does not give each group {group} inputs")
        return order.astype(np.int32)


def awq_unpacked(stored: NDArray[Any]) -> NDArray[np.uint8]:
    """[rows, columns / 8] int32 -> [rows, columns]."""
    nibbles = unpacked(stored, 4)
    return nibbles.reshape(len(nibbles), -1, 8)[:, :, AWQ_COLUMNS].reshape(len(nibbles), -1)


class StoredLayers(dict[str, StoredLayer]):
    """The quantised layers of a checkpoint, by the name that their weight would have in one that is not quantised."""

    def tensors(self, checkpoint: TensorHeaders) -> tuple[str, ...]:
        """The names that the checkpoint would have if it were not quantised."""
        parts = {f"{layer.name}.{part}" for layer in self.values() for part in layer.format.parts}
        return tuple(sorted({*self, *(name for name in checkpoint.shapes if name not in parts)}))


def stored_layers(checkpoint: TensorHeaders) -> StoredLayers:
    """Read from config.json and headers.

    Raises UnsupportedModelError: a format that is not read, or tensors that are missing or do not fit each other.
    """
    file = checkpoint.directory / "config.json"
    try:
        config = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise UnsupportedModelError(f"{file} cannot be read: {error}") from error
    found = format_of(config)
    layers = StoredLayers()
    if found is None:
        return layers
    group_size = group_of(config)
    for name in checkpoint.shapes:
        layer, _, last = name.rpartition(".")
        if last != found.values or (last == "weight" and not is_quantised(checkpoint, found, layer)):
            continue
        layers[f"{layer}.weight"] = described(checkpoint, found, layer, group_size)
    if not layers:
        raise UnsupportedModelError(
            f"quantization_config in config.json says {found.name}, and no tensor in {checkpoint.directory} is called "
            f"*.{found.values} with a *.{found.scales} beside it. Take quantization_config out, or use the files that "
            "belong to it"
        )
    return layers


def is_quantised(checkpoint: TensorHeaders, found: Format, layer: str) -> bool:
    """Formats that keep the name `weight` leave out some layers, which then have numbers as ever."""
    return f"{layer}.{found.scales}" in checkpoint.shapes or checkpoint.kind(f"{layer}.{found.values}") in (
        "F8_E4M3",
        "I8",
    )


def group_of(config: dict[str, Any]) -> int | None:
    """As config.json has it, for checking; None: it says nothing, or that there are none."""
    found = config.get("quantization_config") or {}
    size = found.get("group_size", found.get("q_group_size"))
    return size if isinstance(size, int) and size > 0 else None


def described(checkpoint: TensorHeaders, found: Format, layer: str, group_size: int | None) -> StoredLayer:
    """Raises UnsupportedModelError."""

    def wrong(what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"the weights in {checkpoint.directory} cannot be loaded: the {found.name} layer {layer} {what}"
        )

    def shape(part: str) -> tuple[int, ...]:
        if f"{layer}.{part}" not in checkpoint.shapes:
            raise wrong(f"has no {part}")
        return checkpoint.shapes[f"{layer}.{part}"]

    values, scales = shape(found.values), shape(found.scales)
    if len(values) != 2:
        raise wrong(f"has {found.values} of the shape {list(values)}, which should have two dimensions")
    per_word = WORD // found.bits if found.bits else 1
    if found.packing == "rows of inputs":
        inputs, outputs = values[0] * per_word, values[1]
    elif found.packing == "interleaved outputs":
        inputs, outputs = values[0], values[1] * per_word
    elif found.packing == "outputs first":
        inputs, outputs = values[1] * per_word, values[0]
    else:
        inputs, outputs = values[1], values[0]
    kind = checkpoint.kind(f"{layer}.{found.values}")
    wanted = "I32" if found.packing != "none" else "I8" if found.bits else "F8_E4M3"
    if kind != wanted:
        raise wrong(f"has {found.values} of type {kind}, which should be {wanted}")
    if found.blocks is not None:
        groups = scales[-1]
        fits = scales == (-(-outputs // found.blocks[0]), inputs // found.blocks[1])
    elif scales in ((), (1,), (outputs,), (1, 1)) and found.outputs_first:
        groups, fits = 1, True
    else:
        groups = scales[-1] if found.outputs_first else scales[0]
        fits = scales == ((outputs, groups) if found.outputs_first else (groups, outputs))
    if not fits or groups < 1 or inputs % groups:
        raise wrong(
            f"has {found.scales} of the shape {list(scales)}, which do not fit {outputs} outputs and {inputs} inputs"
        )
    if group_size is not None and groups != max(1, inputs // group_size):
        raise wrong(
            f"has {groups} groups of {inputs // groups} inputs, and config.json says group_size={group_size}"
        )
    offsets = not found.symmetric
    if found.zeros:
        shape(found.zeros)
    grouped = groups > 1 or offsets
    scheme = Scheme(
        found.dtype,
        inputs // groups if grouped else None,
        offsets,
        found.reordered and groups > 1,
    )
    return StoredLayer(layer, found, inputs, outputs, scheme)
