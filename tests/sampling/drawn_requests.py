"""Whole requests at one step, drawn by hypothesis: all sampling parameters together, and difficult logits."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from sampling.slow_reference import Asked, Row
from text_generation_server.sampling.parameters import SamplingParameters

VOCABULARY = 96


def often_neutral(neutral: float, others: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    """Every other request leaves a parameter as it is, or nobody would ever be greedy."""
    # What the wire carries is a float32.
    return st.one_of(st.just(neutral), others.map(lambda value: float(np.float32(value))))


asked = st.builds(
    Asked,
    temperature=often_neutral(1.0, st.floats(0.05, 3)),
    top_k=st.one_of(st.just(0), st.integers(1, 2 * VOCABULARY)),
    top_p=often_neutral(1.0, st.floats(0.01, 0.99)),
    typical_p=often_neutral(1.0, st.floats(0.01, 0.99)),
    do_sample=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    repetition_penalty=often_neutral(1.0, st.floats(0.3, 3)),
    frequency_penalty=often_neutral(0.0, st.floats(-2, 2)),
    watermark=st.booleans(),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A request with 1 to 40 tokens so far; logits may tie, be far apart, and be -inf for all tokens but one."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = chance.integers(0, VOCABULARY, draw(st.integers(1, 40))).tolist()
    if draw(st.booleans()):
        ids = (ids[:2] * len(ids))[: len(ids)]
    logits = chance.normal(size=VOCABULARY) * draw(st.sampled_from([0.1, 1.0, 4.0, 30.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    forbidden = chance.random(VOCABULARY) < draw(st.sampled_from([0.0, 0.0, 0.5, 0.97]))
    forbidden[chance.integers(0, VOCABULARY)] = False
    logits[forbidden] = -np.inf
    return Row(draw(asked), ids, logits.astype(np.float32).astype(np.float64))


def sampling_parameters(asked: Asked) -> SamplingParameters:
    """The same request in the shard's words."""
    return SamplingParameters(**dataclasses.asdict(asked))
