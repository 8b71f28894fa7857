"""Prompts: encoded, truncated and checked."""

from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.errors import InvalidRequestError, quoted, require
from text_generation_server.text.tokenizer import ModelTokenizer


class PromptEncoder:
    """Turns a request's prompt into token ids below `vocab_size` that fit into a slot of `max_length` tokens."""

    def __init__(self, tokenizer: ModelTokenizer, max_length: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._vocab_size = vocab_size
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer.encode("", add_special_tokens=True)[:1] == [bos]

    def encode(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids, truncated as asked; at least one, and with the output at most `max_length`.

        Raises InvalidRequestError if prompt and output cannot fit, if there is no prompt, or if the prompt has a
        token that the model lacks (some fine-tunes add tokens to the tokenizer only).
        """
        new = request.max_new_tokens
        require(new >= 1, "max_new_tokens", new, ">= 1")
        require(request.truncate >= 0, "truncate", request.truncate, "0 (off) or a positive integer")
        token_ids = self._truncated(self._tokenized(request), request.truncate)
        length = len(token_ids)
        if length == 0:
            raise InvalidRequestError(
                f"`inputs` must have at least 1 token. Given: {quoted(repr(request.prompt))}, which has none. "
                "Any text that is not empty works."
            )
        if length >= self._max_length:
            raise InvalidRequestError(
                f"`inputs` must have fewer than {self._max_length} tokens. Given: {length}. "
                f"Shorten `inputs`, or set `truncate` to at most {self._max_length - 1}."
            )
        if length + new > self._max_length:
            raise InvalidRequestError(
                f"`inputs` tokens + `max_new_tokens` must be <= {self._max_length}. Given: {length} + {new}. "
                f"Set `max_new_tokens` to at most {self._max_length - length}, or shorten `inputs`."
            )
        unknown = max(token_ids)
        if unknown >= self._vocab_size:
            raise InvalidRequestError(
                f"`inputs` must not contain {self._tokenizer.token(unknown)!r}: the tokenizer knows "
                f"it as token {unknown}, but the model has only {self._vocab_size} tokens"
            )
        return token_ids

    def _tokenized(self, request: GenerationRequest) -> list[int]:
        """The whole prompt, with one BOS at most where the tokenizer adds one.

        A chat template writes the BOS into the text, and the v2 wire has no field to say that none is to be
        added: without this check every chat would start with two.
        """
        token_ids = self._tokenizer.encode(request.prompt, add_special_tokens=request.add_special_tokens)
        doubled = [self._tokenizer.bos_token_id] * 2
        if self._adds_bos and request.add_special_tokens and token_ids[:2] == doubled:
            return token_ids[1:]
        return token_ids

    def _truncated(self, token_ids: list[int], truncate: int) -> list[int]:
        """The last `truncate` tokens, where a leading BOS counts and stays (TGI: truncation_side="left")."""
        if truncate == 0 or len(token_ids) <= truncate:
            return token_ids
        if token_ids[0] == self._tokenizer.bos_token_id:
            return [token_ids[0], *token_ids[len(token_ids) - truncate + 1 :]]
        return token_ids[len(token_ids) - truncate :]
