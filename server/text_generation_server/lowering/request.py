"""What the lowering is asked for and what it answers. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from text_generation_server.engine.state import BatchShape
from text_generation_server.lowering.lowered import LoweredProgram
from text_generation_server.model.description import ModelDescription, ModelSource, TextFacts
from text_generation_server.sampling.parameters import WatermarkStrength


@dataclass(frozen=True)
class ProgramOptions:
    """What the programs of a model depend on beside the model itself.

    Attributes:
        shape: of the static batch.
        strength: of watermarks.
        exact_float32: multiply float32 matrices in float32 on devices that would rather not.
    """

    shape: BatchShape
    strength: WatermarkStrength
    exact_float32: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "shape": self.shape.to_json(),
            "strength": self.strength.__dict__,
            "exact_float32": self.exact_float32,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ProgramOptions":
        return ProgramOptions(
            BatchShape.from_json(data["shape"]),
            WatermarkStrength(**data["strength"]),
            data["exact_float32"],
        )


class Lowering(Protocol):
    """Whoever describes a model and records its programs: this process, or one beside it."""

    def describe(self, source: ModelSource) -> ModelDescription:
        """Raises UnsupportedModelError for a model that cannot be served."""
        ...

    def resume(self, source: ModelSource) -> None:
        """Programs will be asked of this model, whose description is known from before."""
        ...

    def read_text(self, directory: Path) -> TextFacts:
        """The tokenizer of a checkpoint. Raises UnsupportedModelError if there is none that is fast."""
        ...

    def lower(self, options: ProgramOptions, names: Sequence[str]) -> Iterator[LoweredProgram]:
        """Records programs of `engine.catalogue` for the model that was described or resumed last.

        Raises UnsupportedModelError with the operation for a program that cannot be recorded.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds. More may be asked, for which all of it is made again."""
        ...
