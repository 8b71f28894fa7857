"""How the tokens of a request are chosen: one set of parameters, from validation to the message for the shard.

A new parameter is a field of `schemas.GenerateParameters`, a field here with its check, a line of
`shard.wire.to_parameters`, and a field of the message.
"""

import random
from dataclasses import dataclass

from tpu_tgi.router.api.responses import to_float32
from tpu_tgi.router.errors import ValidationError
from tpu_tgi.router.requests.grammar import ShardGrammar
from tpu_tgi.router.requests.schemas import GenerateParameters


@dataclass(frozen=True)
class SamplingParameters:
    """With every default filled in. Numbers are 32-bit floats, which is what the shard receives.

    Attributes:
        seed: drawn at random if the client gave none.
        top_k: 0 is off. top_p, typical_p: 1.0 is off.
        grammar: what the whole answer must match; it is compiled after everything else was checked.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    do_sample: bool = False
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    watermark: bool = False
    grammar: ShardGrammar | None = None


def check_sampling(parameters: GenerateParameters) -> SamplingParameters:
    """All but the grammar. Raises ValidationError, in the order and with the texts of the stock router."""
    distribution = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    samples = parameters.do_sample or any(value is not None for value in distribution)
    if (parameters.best_of or 1) > 1 and not samples:
        raise ValidationError("you must use sampling when `best_of` is > 1")
    temperature = number(parameters.temperature, 1.0)
    if not temperature > 0:
        raise ValidationError("`temperature` must be strictly positive")
    repetition_penalty = number(parameters.repetition_penalty, 1.0)
    if not repetition_penalty > 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")
    frequency_penalty = number(parameters.frequency_penalty, 0.0)
    if not -2 <= frequency_penalty <= 2:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    top_p = number(parameters.top_p, 1.0)
    if parameters.top_p is not None and not 0 < top_p < 1:
        raise ValidationError("`top_p` must be > 0.0 and < 1.0")
    typical_p = number(parameters.typical_p, 1.0)
    if parameters.typical_p is not None and not 0 < typical_p < 1:
        raise ValidationError("`typical_p` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    return SamplingParameters(
        seed=random.getrandbits(64) if parameters.seed is None else parameters.seed,
        temperature=temperature,
        top_k=parameters.top_k or 0,
        top_p=top_p,
        typical_p=typical_p,
        do_sample=parameters.do_sample,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        watermark=parameters.watermark,
    )


def number(value: float | None, absent: float) -> float:
    return absent if value is None else to_float32(value)
