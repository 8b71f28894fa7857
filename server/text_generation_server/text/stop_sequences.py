"""Where an output ends because of what it says."""

from collections.abc import Sequence

from text_generation_server.errors import InvalidRequestError, quoted


class StopSequences:
    """Finds the first place where the output has one of its stop sequences.

    The output is what is streamed, special tokens' text included (TGI's rule, `utils/tokens.py`); other than
    with TGI, a sequence is found wherever it ends, also within a token. Searching costs no more for a long
    output than for a short one: of what went before, only the longest sequence's length is kept.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        """Raises InvalidRequestError for an empty sequence, which would stop before the first token."""
        if "" in sequences:
            raise InvalidRequestError(
                f"`stop` must not contain an empty string. Given: {quoted(str(list(sequences)))}. "
                "Leave it out, or name at least one character."
            )
        self._sequences = tuple(sequences)
        self._tail_length = max(map(len, sequences), default=1) - 1
        self._tail = ""

    def end_in(self, piece: str) -> int | None:
        """Appends `piece` to the output; where in `piece` the first stop sequence ends, None if none does.

        Not to be called again once it found one.
        """
        before = len(self._tail)
        text = self._tail + piece
        starts = [(text.find(stop), len(stop)) for stop in self._sequences]
        self._tail = text[max(0, len(text) - self._tail_length) :]
        return min((start + length - before for start, length in starts if start >= 0), default=None)
