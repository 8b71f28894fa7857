"""What the engine asks of a runtime: arrays on a device, and programs that run on them."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from text_generation_server.engine.sharding import WHOLE, Partition

Buffer = Any
"""An array on the device, which may still be computed."""


class Device(Protocol):
    """Where the state lives. All but `read` return at once."""

    def send(self, array: NDArray[Any], partition: Partition = WHOLE) -> Buffer:
        """Copies an array of the host to the device; of several chips each gets the whole, or its part."""
        ...

    def start_reading(self, buffer: Buffer) -> None:
        """Lets the copy to the host begin as soon as the array is computed."""
        ...

    def read(self, buffer: Buffer) -> NDArray[Any]:
        """The array on the host; waits until it is computed. RuntimeError if the device failed."""
        ...

    def is_computed(self, buffer: Buffer) -> bool:
        """Whether `read` would return at once."""
        ...

    def compilations(self) -> int:
        """Programs compiled by this process so far."""
        ...

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes in use, and the limit; None where the device does not tell."""
        ...


class RunnableProgram(Protocol):
    """A program of `engine.programs` that is compiled, with its weights."""

    def run(self, state: Mapping[str, Buffer], inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Starts it and returns at once: results by name.

        An argument is taken from `inputs`, else from `state`. Those that are succeeded by a result of their name are
        given away and must not be used again.
        """
        ...
