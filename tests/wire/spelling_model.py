"""A model that anyone can predict: it goes on with the alphabet, and ends after "z".

"w" is continued by "x", "y", "z" and the end of the sequence. One character is one token. A prompt that begins
with FOREVER goes on with "a" after "z", one with SLOW takes a second for each token, and BREAK breaks the engine.
"""

import time
from collections.abc import Sequence
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


def next_letter(history: Sequence[int]) -> int:
    """The next token of a prompt and its output. Only their ends are read: it is as quick on long texts."""
    tokenizer = spelling_tokenizer()
    beginning = tokenizer.decode(history[:12], skip_special_tokens=True)
    if beginning.startswith("BREAK"):
        raise RuntimeError("the device is gone")
    if beginning.startswith("SLOW"):
        time.sleep(1)
    last = tokenizer.decode(history[-1:], skip_special_tokens=True)
    if last == "z" and not beginning.startswith("FOREVER"):
        return eos_id()
    letter = chr(ord(last) + 1) if "a" <= last < "z" else "a"
    return int(tokenizer.convert_tokens_to_ids(letter))
