"""A checkpoint directory: what stands in its headers, and the values of its tensors. No torch here."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from text_generation_server.errors import UnsupportedModelError, one_line

NUMBERS = ("F64", "F32", "F16", "BF16")
"""What a weight may be stored as, in the words of safetensors."""

UNKNOWN_TO_SAFETENSORS = {"F8_E4M3": "float8_e4m3fn"}
"""What it cannot make numpy arrays of, and the dtype of `ml_dtypes` for it."""

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
"""Ends of the names that heads and embeddings have in checkpoints."""


class TensorHeaders:
    """What there is to know of a checkpoint without its values.

    Attributes:
        directory: with config.json.
        shapes: by name of the tensor.
    """

    def __init__(self, directory: Path, shapes: dict[str, tuple[int, ...]], kinds: dict[str, str]) -> None:
        self.directory = directory
        self.shapes = shapes
        self._kinds = kinds

    def kind(self, tensor: str) -> str:
        """The dtype in the words of safetensors, for example "BF16"."""
        return self._kinds[tensor]


class Checkpoint(TensorHeaders):
    """The tensors of a directory, in one file or several."""

    def __init__(self, directory: Path) -> None:
        """Reads headers only. Raises UnsupportedModelError if there are none, or they cannot be read."""
        super().__init__(directory, {}, {})
        self._files: dict[str, Path] = {}
        for path in weight_files(directory):
            try:
                with safe_open(path, "np") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no dict
                        part = file.get_slice(name)
                        self.shapes[name] = tuple(part.get_shape())
                        self._kinds[name] = part.get_dtype()
                        self._files[name] = path
            except (SafetensorError, OSError) as error:
                raise self._unreadable(error) from error

    def file(self, tensor: str) -> Path:
        return self._files[tensor]

    @contextmanager
    def opened(self) -> Iterator["OpenCheckpoint"]:
        """For reading values; errors become UnsupportedModelError."""
        with ExitStack() as stack:
            try:
                files = {
                    path: stack.enter_context(safe_open(path, "np")) for path in set(self._files.values())
                }
                yield OpenCheckpoint({name: files[path] for name, path in self._files.items()}, self)
            except (SafetensorError, OSError) as error:
                raise self._unreadable(error) from error

    def has_own_head(self) -> bool:
        """There is a head beside the embedding, and it differs.

        Fine-tunes with a trained or resized head often keep a config.json that says that the two are tied. What
        counts is the content, as for transformers' `from_pretrained`.
        """
        head = next((name for name in self.shapes if name.endswith(HEADS)), None)
        embedding = next((name for name in self.shapes if name.endswith(EMBEDDINGS)), None)
        if head is None or embedding is None:
            return False
        if self.shapes[head] != self.shapes[embedding]:
            return True
        with self.opened() as tensors:
            return not np.array_equal(tensors.read(head), tensors.read(embedding))

    def _unreadable(self, error: Exception) -> UnsupportedModelError:
        return UnsupportedModelError(f"the weights in {self.directory} cannot be loaded: {one_line(error)}")


class OpenCheckpoint:
    """Reads tensors of a checkpoint one at a time."""

    def __init__(self, files: dict[str, Any], checkpoint: Checkpoint) -> None:
        self._files = files
        self._checkpoint = checkpoint

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._files

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self._checkpoint.shapes[tensor]

    def read(self, tensor: str) -> NDArray[Any]:
        if (dtype := UNKNOWN_TO_SAFETENSORS.get(self._checkpoint.kind(tensor))) is not None:
            return read_bytes(self._checkpoint.file(tensor), tensor, dtype)
        values: NDArray[Any] = self._files[tensor].get_tensor(tensor)
        return values

    def read_part(self, tensor: str, part: tuple[slice, ...]) -> NDArray[Any]:
        """What the slices cut out; nothing else is read."""
        if all(each in (slice(None), slice(0, None)) for each in part):
            return self.read(tensor)
        values: NDArray[Any] = self._files[tensor].get_slice(tensor)[part]
        return values

    def read_places(
        self, tensor: str, part: tuple[slice, ...], dimension: int, places: NDArray[np.int64]
    ) -> NDArray[Any]:
        """The same, but of one dimension the given places in their order, neighbours together."""
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        pieces = []
        for run in runs:
            ranges = list(part)
            ranges[dimension] = slice(int(run[0]), int(run[-1]) + 1)
            pieces.append(self.read_part(tensor, tuple(ranges)))
        return np.concatenate(pieces, axis=dimension)


def read_bytes(file: Path, tensor: str, dtype: str) -> NDArray[Any]:
    """A tensor by the layout of safetensors: the length of the header in 8 bytes, the header in JSON, and the data."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entry = json.loads(opened.read(length))[tensor]
        start, end = entry["data_offsets"]
        opened.seek(8 + length + start)
        return np.frombuffer(opened.read(end - start), dtype).reshape(entry["shape"])


def raw_config(directory: Path) -> dict[str, Any]:
    """config.json as it stands there. Raises UnsupportedModelError."""
    try:
        read = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"config.json in {directory} cannot be read: {one_line(error)}"
        ) from error
    if not isinstance(read, dict):
        raise UnsupportedModelError(f"config.json in {directory} holds no object")
    return read


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that make up the model; UnsupportedModelError without any."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UnsupportedModelError(f"{index} cannot be read: {error!r}") from error
        return [directory / part for part in parts]
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UnsupportedModelError(f"{directory} has no weights as *.safetensors")
    return files
