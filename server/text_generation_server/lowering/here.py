"""Lowering in this process, which imports torch, torch_xla and transformers for it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.lowering.placed import PlacedModel
from text_generation_server.lowering.request import ProgramOptions
from text_generation_server.model.configuration import eos_token_ids, load_config, load_tokenizer
from text_generation_server.model.description import ModelDescription, ModelSource, TextFacts
from text_generation_server.text.tokenizer import ModelTokenizer


class LoweringHere:
    """See `request.Lowering`."""

    def __init__(self) -> None:
        self._source: ModelSource | None = None
        self._placed: PlacedModel | None = None

    def describe(self, source: ModelSource) -> ModelDescription:
        self._source, self._placed = source, PlacedModel(source)
        return self._placed.description

    def resume(self, source: ModelSource) -> None:
        self._source, self._placed = source, None

    def read_text(self, directory: Path) -> TextFacts:
        # First: transformers reads it for the tokenizer too, and would blame that one.
        config = load_config(directory)
        tokenizer = load_tokenizer(directory)
        ids = eos_token_ids(directory, config, tokenizer)
        return TextFacts(ModelTokenizer.from_transformers(tokenizer).to_json(), tuple(sorted(ids)))

    def lower(self, options: ProgramOptions, names: Sequence[str]) -> Iterator[LoweredProgram]:
        if self._placed is None and self._source is not None:
            self.describe(self._source)
        if self._placed is None:
            raise RuntimeError("a model must be described before its programs are lowered")
        return self._placed.lower(options, names)

    def close(self) -> None:
        self._placed = None
