"""How one request chooses its next token, worked out the plain and slow way: numpy in float64, and sorting.

Written from transformers' logits processors, TGI's rules (protocol sections 8.4 and 8.5) and docs/sampling.md; it
shares no code with the shard, not even the hash behind draws and watermarks.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Asked:
    """What one request asks for, in TGI's names."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    do_sample: bool = False
    seed: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    watermark: bool = False

    @property
    def samples(self) -> bool:
        return self.do_sample or (self.temperature, self.top_k, self.top_p, self.typical_p) != (1, 0, 1, 1)


@dataclass
class Outcome:
    """The reference's answer for one row.

    Attributes:
        scores: the processed scores; filtered tokens are -inf.
        token: the choice.
        logprob: of the choice, under the scores.
        margin: how far the nearest decision was from going the other way (a cut of a filter, the choice itself). If it
            is as small as the rounding of float32, another answer would be as good.
    """

    scores: Numbers
    token: int = -1
    logprob: float = math.nan
    margin: float = math.inf


@dataclass
class Row:
    """One request at one step: what it asks for, its tokens so far, and the model's logits."""

    asked: Asked
    ids: list[int]
    logits: Numbers
    gamma: float = 0.5
    delta: float = 2.0
    _margins: list[float] = field(default_factory=lambda: [math.inf])

    def outcome(self) -> Outcome:
        """Watermark, repetition, frequency, temperature, top-k, top-p, typical-p, choice: TGI's order."""
        scores = self._temperature(self._penalties(self._watermark(self.logits.astype(np.float64))))
        scores = self._typical_p(self._top_p(self._top_k(scores)))
        noise = gumbel_noise(self.asked.seed, len(self.ids), len(scores)) if self.asked.samples else 0.0
        order = np.argsort(-(scores + noise), kind="stable")
        ahead = (scores + noise)[order[0]] - (scores + noise)[order[1]]
        # Of equal logits the first is chosen by everybody; noise is never equal.
        if ahead > 0 or self.asked.samples:
            self._margins.append(float(ahead))
        token = int(order[0])
        return Outcome(scores, token, float(log_softmax(scores)[token]), min(self._margins))

    def _watermark(self, scores: Numbers) -> Numbers:
        if not self.asked.watermark:
            return scores
        return scores + self.delta * green_list(self.ids[-1], len(scores), self.gamma)

    def _penalties(self, scores: Numbers) -> Numbers:
        scores = scores.copy()
        penalty = self.asked.repetition_penalty
        for token in set(self.ids):
            scores[token] *= penalty if scores[token] < 0 else 1 / penalty
        for token in set(self.ids):
            scores[token] -= self.asked.frequency_penalty * self.ids.count(token) / len(self.ids)
        return scores

    def _temperature(self, scores: Numbers) -> Numbers:
        return scores / self.asked.temperature

    def _top_k(self, scores: Numbers) -> Numbers:
        if self.asked.top_k == 0:
            return scores
        kth = np.sort(scores)[::-1][min(self.asked.top_k, len(scores)) - 1]
        return self._cut(scores, scores, kth)

    def _top_p(self, scores: Numbers) -> Numbers:
        if self.asked.top_p >= 1:
            return scores
        return self._until(scores, scores, self.asked.top_p)

    def _typical_p(self, scores: Numbers) -> Numbers:
        if self.asked.typical_p >= 1:
            return scores
        logprobs = log_softmax(scores)
        probabilities = np.exp(logprobs)
        entropy = -sum(share * log for share, log in zip(probabilities, logprobs, strict=True) if share > 0)
        typicality = np.where(scores > -np.inf, -np.abs(-logprobs - entropy), -np.inf)
        return self._until(scores, typicality, self.asked.typical_p)

    def _until(self, scores: Numbers, keys: Numbers, mass: float) -> Numbers:
        """Keeps the tokens with the largest keys, as few as reach the mass, and what ties with the last of them."""
        probabilities = np.exp(log_softmax(scores))
        order = np.argsort(-keys, kind="stable")
        reached = np.cumsum(probabilities[order])
        last = (
            min(int(np.argmax(reached >= mass)), len(keys) - 1) if (reached >= mass).any() else len(keys) - 1
        )
        # Only the ends of ties matter, since a tie is kept as a whole.
        beyond = np.append(keys[order[1:]], -np.inf)
        ends = reached[keys[order] > beyond]
        self._margins.append(float(np.abs(ends - mass).min()))
        return self._cut(scores, keys, keys[order[last]])

    def _cut(self, scores: Numbers, keys: Numbers, lowest: float) -> Numbers:
        kept = keys >= lowest
        finite = keys > -np.inf
        if (kept & finite).any() and (~kept & finite).any():
            self._margins.append(float(keys[kept & finite].min() - keys[~kept & finite].max()))
        return np.where(kept & finite, scores, -np.inf)


def log_softmax(scores: Numbers) -> Numbers:
    highest = scores.max()
    normalised: Numbers = scores - highest - math.log(np.exp(scores - highest).sum())
    return normalised


def best_tokens(scores: Numbers, count: int) -> list[int]:
    """TGI's rule for alternatives: the first `count`, and all that tie with the last of them; no filtered one."""
    order = [int(token) for token in np.argsort(-scores, kind="stable") if scores[token] > -np.inf]
    return [token for token in order if scores[token] >= scores[order[min(count, len(order)) - 1]]]


# Random numbers: docs/sampling.md. Unsigned 32-bit arithmetic on Python's integers.


def mix(bits: int) -> int:
    """The 32-bit mixer "lowbias32" (C. Wellons, 2018)."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D % 2**32
    bits ^= bits >> 15
    bits = bits * 0x846CA68B % 2**32
    return bits ^ bits >> 16


def gumbel_noise(seed: int, position: int, count: int) -> Numbers:
    low, high = seed % 2**32, seed >> 32
    first = mix((mix(mix((low + 0x9E3779B9) % 2**32) ^ high) + position) % 2**32)
    second = mix(first ^ (low + 0x9E3779B9) % 2**32)
    uniform = [((mix((mix(lane ^ first) + second) % 2**32) >> 9) + 0.5) / 2**23 for lane in range(count)]
    return np.array([-math.log(-math.log(each)) for each in uniform])


def green_list(previous: int, count: int, gamma: float) -> Numbers:
    """1 for green tokens, 0 for the others."""
    key = mix((previous * 15_485_863 + 1) % 2**32)
    hashes = [mix(mix((lane + 15_485_863) % 2**32) ^ key) >> 8 for lane in range(count)]
    return np.array([float(each < gamma * 2**24) for each in hashes])
