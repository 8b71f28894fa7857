"""What a request must get when nobody else is there, worked out the plain and slow way.

It shares no code with the shard: the whole output is decoded anew for every token, and searched as a whole.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_server.batching.requests import FinishReason, GenerationRequest


@dataclass(frozen=True)
class Answer:
    """A complete answer: what is streamed with each token, and the end."""

    token_ids: list[int]
    pieces: list[str]
    text: str
    reason: FinishReason


def answer_alone(
    request: GenerationRequest,
    tokenizer: Any,
    next_token: Callable[[Sequence[int]], int],
    eos_token_ids: Collection[int],
    special_ids: Collection[int],
) -> Answer:
    """The answer of a byte-level tokenizer whose tokens hold whole characters only."""
    prompt_ids = list(tokenizer(request.prompt, add_special_tokens=request.add_special_tokens)["input_ids"])
    token_ids: list[int] = []
    pieces: list[str] = []
    while True:
        token_id = next_token([*prompt_ids, *token_ids])
        token_ids.append(token_id)
        pieces.append(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        reason = None
        if token_id in eos_token_ids and not request.ignore_eos_token:
            reason = FinishReason.EOS_TOKEN
        elif (end := first_end("".join(pieces), request.stop_sequences)) is not None:
            reason = FinishReason.STOP_SEQUENCE
            pieces[-1] = pieces[-1][: end - len("".join(pieces[:-1]))]
        elif len(token_ids) == request.max_new_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            text = "".join(p for p, token in zip(pieces, token_ids, strict=True) if token not in special_ids)
            return Answer(token_ids, pieces, text, reason)


def first_end(text: str, stop_sequences: Sequence[str]) -> int | None:
    """The shortest start of `text` that ends with a stop sequence, by trying all of them."""
    for end in range(len(text) + 1):
        if text[:end].endswith(tuple(stop_sequences)):
            return end
    return None
