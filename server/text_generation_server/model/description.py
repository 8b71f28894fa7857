"""What there is to know of a model without its code and its weights; no torch here.

It is found once (`lowering.placed`), kept with the lowered programs, and is all that loading needs.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.rotary import RotaryLengths, read_rotary_lengths
from text_generation_server.engine.state import ITEM_BYTES, BatchShape, HeadsAndDim
from text_generation_server.model.fused import Fused
from text_generation_server.model.quantisation.scheme import Part, Scheme
from text_generation_server.model.stacked import Stacked


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the model as the programs take it.

    Attributes:
        source: the tensor of the checkpoint; of several, the first.
        shape: on the device.
        dtype: on the device.
        transposed: the checkpoint has the last two dimensions the other way round.
        split: the dimensions that may be split over chips, the best first, see `model.sharding`.
        part: of a layer in fewer bits: which of its tensors this is, see `model.quantisation.scheme`; None: of others.
        fused: its outputs, the first dimension of `split`, lie in the order of this; None: as in the checkpoint.
        stacked: where its experts are, which are its first dimension; None: it belongs to no experts.
    """

    source: str
    shape: tuple[int, ...]
    dtype: str
    transposed: bool = False
    split: tuple[int, ...] = ()
    part: Part | None = None
    fused: Fused | None = None
    stacked: Stacked | None = None

    @property
    def nbytes(self) -> int:
        return int(math.prod(self.shape) * ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class ModuleFacts:
    """A module of the model: its class, for a linear layer its numbers of inputs and outputs, by what it is split over
    chips (`model.sharding.Parallel`), and in which order its outputs lie there, if not in their own."""

    type: str
    linear: tuple[int, int] | None
    parallel: str | None = None
    fused: Fused | None = None


@dataclass(frozen=True)
class ModelDescription:
    """Attributes:
    model_class: of transformers.
    layers: see `BatchShape.layers`.
    vocabulary: last dimension of the logits.
    weights: by their name in the programs; a tensor that two modules share is there once.
    modules: by name, for adapters.
    sources: by each name that a weight has in transformers' model, the tensor of the checkpoint.
    positions: the longest sequence that the model was made for.
    window: how many positions a query of a sliding layer sees; 0 if there is no such layer.
    sliding: those layers, by index.
    rotary: how its rotary frequencies depend on the length of a request; None if they do not.
    """

    model_type: str
    model_class: str
    positions: int
    layers: tuple[tuple[HeadsAndDim, HeadsAndDim], ...]
    vocabulary: int
    weights: dict[str, WeightSpec]
    modules: dict[str, ModuleFacts]
    sources: dict[str, str]
    rotary: RotaryLengths | None
    window: int
    sliding: tuple[int, ...]

    def batch_shape(
        self,
        slots: int,
        length: int,
        layout: CacheLayout,
        dtype: str,
        chunk: int,
        *,
        cache_dtype: CacheDtype | None = None,
        adapters: bool = False,
        drafts: int = 0,
        chips: int = 1,
        steps: int = 0,
    ) -> BatchShape:
        """The static batch of this model, see there for the arguments."""
        return BatchShape(
            slots=slots,
            length=length,
            vocabulary=self.vocabulary,
            layers=self.layers,
            layout=layout,
            dtype=dtype,
            cache_dtype=cache_dtype,
            adapters=adapters,
            by_length=self.rotary is not None,
            chunk=chunk,
            window=self.window,
            sliding=self.sliding,
            experts=any(weight.stacked is not None for weight in self.weights.values()),
            drafts=drafts,
            # Several chips would have to share pairs.
            pairs=chips == 1
            and slots % 2 == 0
            and any(keys == values and layout.fills_in_pairs(*keys) for keys, values in self.layers),
            steps=steps,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "ModelDescription":
        data = json.loads(text)
        return ModelDescription(
            data["model_type"],
            data["model_class"],
            data["positions"],
            tuple((tuple(keys), tuple(values)) for keys, values in data["layers"]),
            data["vocabulary"],
            {
                name: WeightSpec(
                    **{
                        **weight,
                        "shape": tuple(weight["shape"]),
                        "split": tuple(weight["split"]),
                        "fused": read_fused(weight["fused"]),
                        "stacked": read_stacked(weight["stacked"]),
                    }
                )
                for name, weight in data["weights"].items()
            },
            {
                name: ModuleFacts(
                    module["type"],
                    tuple(module["linear"]) if module["linear"] else None,
                    module["parallel"],
                    read_fused(module["fused"]),
                )
                for name, module in data["modules"].items()
            },
            data["sources"],
            read_rotary_lengths(data["rotary"]),
            data["window"],
            tuple(data["sliding"]),
        )


def read_fused(data: dict[str, Any] | None) -> Fused | None:
    return None if data is None else Fused(tuple(data["parts"]), data["groups"])


def read_stacked(data: dict[str, Any] | None) -> Stacked | None:
    return None if data is None else Stacked(**{**data, "tensors": tuple(data["tensors"])})


@dataclass(frozen=True)
class TextFacts:
    """What turns a model's tokens into text and back.

    Attributes:
        tokenizer: see `ModelTokenizer.to_json`.
        eos_token_ids: all tokens that end a text.
    """

    tokenizer: str
    eos_token_ids: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "TextFacts":
        data = json.loads(text)
        return TextFacts(data["tokenizer"], tuple(data["eos_token_ids"]))


@dataclass(frozen=True)
class ModelSource:
    """What a model is made from, as far as its programs depend on it.

    Attributes:
        directory: of the checkpoint.
        tensors: the names of the checkpoint's tensors, as they would be if it were not quantised; None: those that
            transformers would write, for tools that have a configuration and no weights.
        dtype: of weights, cache and logits.
        transposed: linear layers keep their weight as [inputs, outputs], which XLA on a CPU wants.
        own_head: the checkpoint has a head that differs from the embedding, whatever config.json says.
        adapter_ranks: by linear layer, the ranks of all LoRA adapters together.
        made: in what linear layers are kept that are not stored otherwise; None: in `dtype`.
        shared: several chips share the model, see `model.fused`.
        stored: in what those are kept whose weight, one of `tensors`, comes quantised.
    """

    directory: Path
    tensors: tuple[str, ...] | None
    dtype: str
    transposed: bool
    own_head: bool
    adapter_ranks: dict[str, int]
    made: Scheme | None = None
    shared: bool = False
    stored: dict[str, Scheme] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "directory": str(self.directory)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ModelSource":
        return ModelSource(
            **{
                **data,
                "directory": Path(data["directory"]),
                "tensors": None if data["tensors"] is None else tuple(data["tensors"]),
                "made": None if data["made"] is None else Scheme(**data["made"]),
                "stored": {name: Scheme(**scheme) for name, scheme in data["stored"].items()},
            }
        )
