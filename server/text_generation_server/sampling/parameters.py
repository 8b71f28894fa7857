"""What a request asks of the choice of its next token."""

import math
from dataclasses import dataclass
from enum import IntEnum

from text_generation_server.errors import require

UINT64_MAX = 2**64 - 1


class Processing(IntEnum):
    """How much is done with logits before the choice; each does all that the ones before it do.

    NONE: the plain arg max. PENALTIES: penalties, temperature, sampling. FILTERS: top-k and top-p.
    EVERYTHING: typical-p and watermark, which few ask for.
    """

    NONE = 0
    PENALTIES = 1
    FILTERS = 2
    EVERYTHING = 3


@dataclass(frozen=True)
class WatermarkStrength:
    """How strong watermarks are, for all requests that ask for one; the defaults are TGI's.

    Attributes:
        gamma: part of the vocabulary that is green, above 0 and below 1.
        delta: what is added to a green token's logit.
    """

    gamma: float = 0.5
    delta: float = 2.0


@dataclass(frozen=True)
class SamplingParameters:
    """How one request chooses its tokens, with TGI's meaning and neutral values.

    Attributes:
        temperature: divides the logits; 1 is neutral, must be above 0.
        top_k: keeps the k best tokens (and ties with the k-th); 0 is off.
        top_p: keeps the smallest set of best tokens whose mass reaches top_p; 1 is off.
        typical_p: keeps the most typical tokens up to this mass (Meister et al., 2022); 1 is off.
        do_sample: draw from the distribution; otherwise see `samples`.
        seed: unsigned 64-bit; with equal prompt and parameters, equal seeds give equal tokens.
        repetition_penalty: divides positive and multiplies negative logits of tokens that occur in
            prompt or output (Keskar et al., 2019); 1 is neutral.
        frequency_penalty: times the token's share of prompt and output, subtracted; 0 is neutral.
        watermark: prefer tokens that a detector can count, see `watermark`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    do_sample: bool = False
    seed: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    watermark: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidRequestError for a value out of range; NaN is out of every range."""
        require(
            self.temperature > 0 and math.isfinite(self.temperature), "temperature", self.temperature, "> 0"
        )
        require(0 <= self.top_k < 2**31, "top_k", self.top_k, "0 (off) or a positive integer")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "> 0 and <= 1")
        require(0 < self.typical_p <= 1, "typical_p", self.typical_p, "> 0 and <= 1")
        require(0 <= self.seed <= UINT64_MAX, "seed", self.seed, "an unsigned 64-bit integer")
        require(
            self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty),
            "repetition_penalty",
            self.repetition_penalty,
            "> 0",
        )
        require(
            math.isfinite(self.frequency_penalty),
            "frequency_penalty",
            self.frequency_penalty,
            "a finite number",
        )

    @property
    def samples(self) -> bool:
        """TGI's rule: any distribution parameter that is set implies sampling, whatever do_sample says."""
        return (
            self.do_sample
            or self.temperature != 1.0
            or self.top_k != 0
            or self.top_p < 1.0
            or self.typical_p < 1.0
        )

    @property
    def processing(self) -> "Processing":
        """The least processing that gives this request what it asks for."""
        if self.typical_p < 1.0 or self.watermark:
            return Processing.EVERYTHING
        if self.top_k != 0 or self.top_p < 1.0:
            return Processing.FILTERS
        if self.samples or self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0:
            return Processing.PENALTIES
        return Processing.NONE
