"""A model that anyone can predict: it goes on with the alphabet, and ends after "z".

"w" is continued by "x", "y", "z" and the end of the sequence. One character is one token.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"


@cache
def spelling_tokenizer() -> Any:
    """All bytes, a BOS before prompts with special tokens, and an EOS."""
    vocabulary = {
        character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (BOS, EOS)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def eos_id() -> int:
    return int(spelling_tokenizer().convert_tokens_to_ids(EOS))


def next_letter(before: Callable[[str], None] = lambda text: None) -> Callable[[Sequence[int]], int]:
    """The next token of a prompt and its output; `before` sees their text first, and may raise or sleep."""
    tokenizer = spelling_tokenizer()

    def next_token(history: Sequence[int]) -> int:
        text = tokenizer.decode(history, skip_special_tokens=True)
        before(text)
        last = text[-1:]
        if last == "z":
            return eos_id()
        letter = chr(ord(last) + 1) if "a" <= last < "z" else "a"
        return int(tokenizer.convert_tokens_to_ids(letter))

    return next_token
