"""Rotary frequencies that depend on how long a request is, and what follows from that for what slots hold. No torch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RotaryLengths:
    """Of a model with `longrope` or `dynamic` rotary embeddings.

    A token's key is rotated by the length of its request when the token is computed: that of the whole prompt for its
    tokens, and one more for each token of the output. So what a slot holds of a prompt depends on the prompt's length.

    Attributes:
        original: requests up to so many tokens have the same frequencies.
        each: beyond it each length has its own (`dynamic`), and not all of them the same (`longrope`).
        recomputed: a request that grows beyond it is computed again from its start, with the frequencies of long ones.
    """

    original: int
    each: bool
    recomputed: bool

    def family(self, prompt_tokens: int) -> int:
        """Prompts of the same family have the same frequencies, and so may share a beginning."""
        if prompt_tokens <= self.original:
            return 0
        return prompt_tokens if self.each else 1

    def recomputed_at(self, prompt_tokens: int) -> int | None:
        """The number of tokens, prompt and output, at which the request is to be computed again; None if at none."""
        return self.original + 1 if self.recomputed and prompt_tokens <= self.original else None


def read_rotary_lengths(data: dict[str, Any] | None) -> RotaryLengths | None:
    """Of what `dataclasses.asdict` made of it."""
    return None if data is None else RotaryLengths(**data)
