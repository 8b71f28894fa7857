"""What a program is given when it runs for the first time, before there are requests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.buckets import PieceShape
from text_generation_server.engine.contract import EngineInfo, Wanted
from text_generation_server.engine.drafting import draft_arrays, wanted_arrays
from text_generation_server.engine.filling import FillingSlot, PieceRow, piece_arrays
from text_generation_server.engine.slot_adapters import BASE
from text_generation_server.engine.state import BatchShape, float_parameters, integer_parameters
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import SamplingParameters


def empty_inputs(name: str, shape: BatchShape, info: EngineInfo) -> dict[str, NDArray[Any]]:
    """Inputs of the right shapes, and perhaps more than the program takes. Slot 0 is not live, so what is written there
    means nothing."""
    kind, _, variant = name.partition(" ")
    slots, vocabulary = info.batch_size, info.vocab_size
    neutral = SamplingParameters()
    arrays: dict[str, NDArray[Any]] = {}
    if kind in ("extend", "score"):
        filling = FillingSlot(0, np.zeros(2, np.int32), 0, neutral, BASE, False, False)
        arrays |= piece_arrays([PieceRow(filling, 0, 1)], PieceShape.parse(variant), info.max_length)
    elif kind in ("seat", "park", "admit"):
        # As it is before anybody was there: parked behind its end.
        position = np.array([info.max_length], np.int32)
        zero = np.array([0], np.int32)
        arrays |= {"slot": zero, "source": zero, "kept": zero, "token": zero, "position": position}
        arrays |= {"new_floats": float_parameters(neutral), "new_integers": integer_parameters(neutral)}
        arrays["new_counts"] = np.zeros((1, vocabulary), np.int32)
    else:
        arrays["logits"] = np.zeros((slots, vocabulary), shape.dtype)
        arrays |= {f"logits.{place}": arrays["logits"] for place in range(shape.drafts + 1)}
        arrays |= draft_arrays({}, info)
        arrays |= wanted_arrays({0: Wanted(1)}, slots)
        arrays |= {"count": np.array([1], np.int32), "choice": np.array([0], np.int32)}
        arrays["scores"] = np.zeros((slots, vocabulary), np.float32)
        arrays["allowed"] = np.full((slots, words(vocabulary)), -1, np.int32)
    return arrays
