"""What is wrong with the given numbers, with values that would work; all of it in one message."""

from dataclasses import dataclass

from tpu_tgi.parameters.given import Number


@dataclass(frozen=True)
class Contradiction:
    """One number that cannot stay, why, and the nearest one that could."""

    number: Number
    reason: str
    works: int

    def __str__(self) -> str:
        return f"`{self.number}` {self.reason}: `{self.number.but(self.works)}` would work"


class Contradictions:
    """Collects them while the derivation goes on with the values that would work.

    So a user who changes everything that the message names has a set that works.
    """

    def __init__(self) -> None:
        self._found: dict[str, Contradiction] = {}
        self._other_names: dict[str, tuple[Number, ...]] = {}

    def __str__(self) -> str:
        """Empty if there are none."""
        return "; ".join(map(str, self._found.values()))

    def agreed(self, numbers: tuple[Number, ...]) -> Number | None:
        """The number that several names mean; the first counts where they differ. None if there is none."""
        if not numbers:
            return None
        first, *others = numbers
        self._other_names[first.source] = tuple(others)
        for other in others:
            if other.value != first.value:
                self._note(other, f"contradicts `{first}`", first.value)
        return first

    def at_least(self, number: Number, low: int, reason: str) -> Number:
        """The number itself, or `low` if it is lower."""
        return number if number.value >= low else self._mended(number, reason, low)

    def at_most(self, number: Number, high: int, reason: str, works: int | None = None) -> Number:
        """The number itself, or `works` (by default `high`) if it is higher."""
        if number.value <= high:
            return number
        return self._mended(number, reason, high if works is None else works)

    def _mended(self, number: Number, reason: str, works: int) -> Number:
        for name in (number, *self._other_names.get(number.source, ())):
            self._note(name, reason, works)
        return number.but(works)

    def _note(self, number: Number, reason: str, works: int) -> None:
        """The number as it was given and the first reason stay; the last value is the one that works."""
        earlier = self._found.get(number.source)
        self._found[number.source] = (
            Contradiction(earlier.number, earlier.reason, works)
            if earlier
            else Contradiction(number, reason, works)
        )
