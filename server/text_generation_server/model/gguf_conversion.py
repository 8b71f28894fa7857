"""Writes a GGUF file as an ordinary checkpoint: `python -m text_generation_server.model.gguf_conversion FILE DIR`.

transformers says which tensor is which, and undoes what llama.cpp did to it. Tensors are read, put in full numbers and
written one at a time, so a model never lies in memory whole.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by its name
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    load_gguf_checkpoint,
    read_field,
)

from text_generation_server.errors import UnsupportedModelError, one_line
from text_generation_server.model.architectures import SUPPORTED_MODEL_TYPES, refusal

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Dtypes in the words of safetensors."""


def convert(file: Path, destination: Path) -> None:
    """Writes config, tokenizer and, last, weights into a directory that is there.

    Raises UnsupportedModelError: it is no GGUF file, or transformers cannot read this kind.
    """
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        if config.model_type not in SUPPORTED_MODEL_TYPES:
            raise UnsupportedModelError(refusal(config.model_type))
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(destination)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        facts = load_gguf_checkpoint(str(file))
        reader = GGUFReader(file)
        names = get_gguf_hf_weights_map(model, processor_of(reader, facts))
    except UnsupportedModelError:
        raise
    except Exception as error:
        # The reader of transformers fails in many ways.
        raise UnsupportedModelError(f"{file} cannot be read: {one_line(error)}") from error
    settings = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    settings["architectures"] = [type(model).__name__]
    (destination / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    with (destination / "model.safetensors").open("wb") as output:
        write(
            output, reader, facts, names, {name: tensor.shape for name, tensor in model.state_dict().items()}
        )


def processor_of(reader: Any, facts: dict[str, Any]) -> Any:
    """What undoes the changes that llama.cpp makes to the tensors of an architecture."""
    (architecture,) = read_field(reader, "general.architecture")
    return TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=facts["config"])


def write(
    output: BinaryIO, reader: Any, facts: dict[str, Any], names: dict[str, str], shapes: dict[str, Any]
) -> None:
    """The tensors as a safetensors file: its header needs shapes alone, which are those of the model."""
    dtype = stored_dtype(reader)
    size = np.dtype(dtype).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    known = [tensor for tensor in reader.tensors if tensor.name in names]
    end = 0
    for tensor in known:
        shape = list(shapes[names[tensor.name]])
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * size
        header[names[tensor.name]] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    output.write(len(text).to_bytes(8, "little") + text)
    for values in full(known, processor_of(reader, facts), names, facts):
        output.write(np.ascontiguousarray(values, dtype=dtype).tobytes())


def full(
    tensors: list[Any], processor: Any, names: dict[str, str], facts: dict[str, Any]
) -> Iterator[NDArray[Any]]:
    """The tensors in full numbers, in order, as transformers has them."""
    for tensor in tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        yield processor.process(
            weights=values, name=tensor.name, tensor_key_mapping=names, parsed_parameters=facts
        ).weights


def stored_dtype(reader: Any) -> str:
    """What the numbers are written as: as they stand in the file, or as the scales of blocks stand there."""
    kinds = {tensor.tensor_type for tensor in reader.tensors}
    if kinds == {GGMLQuantizationType.F32}:
        return "float32"
    return "bfloat16" if GGMLQuantizationType.BF16 in kinds else "float16"


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except UnsupportedModelError as refused:
        sys.exit(str(refused))
