"""Drafts of what a request may say next, looked up in its own prompt and output.

Text is often said again: in summaries, edits of code, and what is extracted from a prompt. Where the last tokens
occurred before, what followed them then is the draft (prompt lookup, Saxena, 2023).
"""

from collections.abc import Sequence

SHORTEST = 2
"""Tokens that must have occurred before. What followed a single one hardly ever follows again."""

LONGEST = 8
"""Occurrences are compared as far back as that."""

CANDIDATES = 8
"""Earlier occurrences that are compared, the latest ones."""

FIRST_RATES = (0.3, 0.5, 0.8)
"""How often a draft's token is right before anything is known of a request, by how much occurred before: 2 or 3
tokens, 4 to 7, or more. Texts differ, so that only the first drafts of a request go by it."""

WEIGHT = 0.125
"""Of the newest outcome in a rate."""


class Drafts:
    """The text of one request, what may come next, and how often that has been right.

    What is expected next is compared with each token that comes, whether or not anybody asks for drafts: so it is known
    before the first verification whether one would pay.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        """`token_ids`: the prompt."""
        self._prompt: Sequence[int] | None = token_ids
        self._tokens: list[int] = []
        # By two tokens, where their latest occurrence ends; and for each place, where the occurrence before ends.
        self._latest: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = []
        # The token that is expected next, and how many tokens before it are as they are at the end.
        self._source: int | None = None
        self._matched = 0
        self._rates = list(FIRST_RATES)

    def add(self, token_id: int) -> None:
        """The next token of the output."""
        self._read_prompt()
        if self._source is not None:
            is_right = self._tokens[self._source] == token_id
            kind = rate_of(self._matched)
            self._rates[kind] += WEIGHT * (is_right - self._rates[kind])
            self._source = self._source + 1 if is_right else None
        self._append(token_id)
        if self._source is not None:
            self._matched += 1
        else:
            self._look_up()

    def propose(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next; none if the last tokens are new."""
        self._read_prompt()
        if self._source is None:
            return []
        tokens, start, end = self._tokens, self._source, len(self._tokens)
        # What is said again and again is its own source behind the end.
        return [tokens[start + place % (end - start)] for place in range(count)]

    def expected(self, count: int) -> float:
        """How many of `count` drafts will be accepted, going by those of this request before."""
        total, all_right = 0.0, 1.0
        if self._source is not None:
            for place in range(count):
                all_right *= self._rates[rate_of(self._matched + place)]
                total += all_right
        return total

    def _read_prompt(self) -> None:
        # Not earlier: the device has something to do by now.
        if self._prompt is not None:
            for token_id in self._prompt:
                self._append(token_id)
            self._prompt = None
            self._look_up()

    def _append(self, token_id: int) -> None:
        """The occurrence that ends here is found from the next token on."""
        place = len(self._tokens)
        if place >= 2:
            pair = (self._tokens[place - 2], self._tokens[place - 1])
            self._earlier.append(self._latest.get(pair, -1))
            self._latest[pair] = place - 1
        elif place == 1:
            self._earlier.append(-1)
        self._tokens.append(token_id)

    def _look_up(self) -> None:
        """Finds the longest earlier occurrence of the last tokens; of several, the latest."""
        tokens, last = self._tokens, len(self._tokens) - 1
        self._source, self._matched = None, 0
        if last < SHORTEST:
            return
        end = self._latest.get((tokens[last - 1], tokens[last]), -1)
        for _ in range(CANDIDATES):
            if end < 0:
                return
            length = SHORTEST
            while length < min(LONGEST, end + 1) and tokens[end - length] == tokens[last - length]:
                length += 1
            if length > self._matched:
                self._source, self._matched = end + 1, length
            if length >= LONGEST:
                return
            end = self._earlier[end]


def rate_of(matched: int) -> int:
    """The place in FIRST_RATES."""
    return 0 if matched < 4 else 1 if matched < 8 else 2
