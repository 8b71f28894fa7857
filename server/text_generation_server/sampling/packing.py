"""How a set of tokens is packed into int32 words: bit i of word w is for token `WORD_BITS * w + i`."""

WORD_BITS = 32


def words(vocabulary: int) -> int:
    """How many words hold one bit for each token."""
    return -(-vocabulary // WORD_BITS)
