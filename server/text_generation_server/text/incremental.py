"""Text of the output, token by token: incremental detokenisation."""

from collections.abc import Sequence

from text_generation_server.text.tokenizer import ModelTokenizer

CONTEXT_TOKENS = 5
"""Prompt tokens that are decoded along with the output: they tell if its first word has a leading space."""

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers show for bytes that are not, or not yet, a character."""

LONGEST_UNFINISHED_CHARACTER = 3
"""Bytes, and so at most tokens, of a UTF-8 character that still lacks its last byte."""

LONGEST_WINDOW = 16
"""Tokens after which the window moves on even though the text never came to rest between two characters."""


class IncrementalText:
    """Splits the text of a growing token sequence into pieces, one for each token.

    A token has no text of its own: it may hold part of a character, and sentencepiece tokenizers drop the
    leading space of whatever comes first. So a short window is decoded with and without the new token, and
    the piece is the difference. The window is `context` (its text was given out before) and `fresh` (tokens
    since then). It moves when the text is at rest, which means it does not end within a character.

    Special tokens stand outside: they have their own text and do not enter the window.
    """

    def __init__(self, tokenizer: ModelTokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = self._context_of(prompt_ids)
        self._context_text = tokenizer.decode(self._context)
        self._fresh: list[int] = []
        self._given = 0  # characters of the fresh tokens that were given out
        self._unfinished_tokens = 0  # tokens since the text last was at rest

    def add(self, token_id: int) -> str:
        """The piece of this token; all characters that are complete by now and were not given out before.

        Pieces of normal tokens concatenate to the text of all of them, without a character that is
        incomplete at the end. Bytes that can never become a character are given out as U+FFFD.
        """
        if token_id in self._tokenizer.special_ids:
            return self._tokenizer.decode([token_id])
        if self._tokenizer.token(token_id) is None:
            # Models pad their vocabulary, and may choose such an id.
            return ""
        self._fresh.append(token_id)
        text = self._tokenizer.decode([*self._context, *self._fresh])
        at_rest = not text.endswith(REPLACEMENT_CHARACTER)
        self._unfinished_tokens = 0 if at_rest else self._unfinished_tokens + 1
        if not text.startswith(self._context_text):
            # Byte-fallback decoders show a whole run of bytes as U+FFFD while one of them is out of place,
            # even those that were given out as characters. Tokens that begin with a byte need no context.
            self._context, self._context_text = [], ""
            text = self._tokenizer.decode(self._fresh)
        piece = text[len(self._context_text) + self._given : self._complete_end(text)]
        self._given += len(piece)
        self._move_window()
        return piece

    def _complete_end(self, text: str) -> int:
        """Where the part of `text` ends that later tokens cannot change.

        Byte-level decoders show an unfinished character as one U+FFFD, byte-fallback decoders as one for
        each byte. After more tokens than an unfinished character can have, all but the last are broken bytes.
        """
        if self._unfinished_tokens == 0:
            return len(text)
        if self._unfinished_tokens <= LONGEST_UNFINISHED_CHARACTER:
            return len(text.rstrip(REPLACEMENT_CHARACTER))
        return len(text) - 1

    def _move_window(self) -> None:
        if self._unfinished_tokens == 0:
            self._context, self._context_text = self._fresh, self._tokenizer.decode(self._fresh)
        elif len(self._fresh) == LONGEST_WINDOW:
            # What was given out of the context's text stays the same part of it, so this may cut anywhere.
            self._context = self._fresh[LONGEST_WINDOW // 2 :]
            text = self._tokenizer.decode(self._context)
            self._context_text = text[: self._complete_end(text)]
        else:
            return
        self._fresh, self._given = [], 0

    def _context_of(self, prompt_ids: Sequence[int]) -> list[int]:
        """The last normal tokens of the prompt, fewer if so they do not start or end within a character."""
        normal: list[int] = []
        for token_id in reversed(prompt_ids):
            if len(normal) == CONTEXT_TOKENS:
                break
            if token_id not in self._tokenizer.special_ids:
                normal.insert(0, token_id)
        for start in range(len(normal)):
            text = self._tokenizer.decode(normal[start:])
            if text.strip(REPLACEMENT_CHARACTER) == text:
                return normal[start:]
        return normal
