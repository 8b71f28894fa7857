"""Small real tokenizers of the kinds that models have, built with the `tokenizers` library."""

from functools import cache
from itertools import product
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Deep learning is a subfield of machine learning.",
    "The quick brown fox jumps over the lazy dog, and then it stops.",
    "深度学习是机器学习的一个分支。你好,世界!",
    "Smileys 😀 😀 and families 👨‍👩‍👧‍👦 are many bytes long 🎉🎉.",
    "Café au lait, naïve, e\u0301te\u0301, नमस्ते, Grüße.",
]
BOS, EOS, TOOL, MARKED, THINK = "<s>", "</s>", "<|tool|>", "<|marked|>", "<think>"
LLAMA_SPACE = "\u2581"


@cache
def byte_level() -> Any:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _wrapped(tokenizer)


@cache
def byte_pairs() -> Any:
    """A byte-level vocabulary of all single bytes (id = byte) and all pairs of bytes (id = 256 + both).

    Any text can be cut into its tokens at any byte. It only decodes.
    """
    shown = byte_level_alphabet()
    vocabulary = {shown[byte]: byte for byte in range(256)}
    vocabulary |= {shown[a] + shown[b]: 256 + 256 * a + b for a, b in product(range(256), repeat=2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer)


@cache
def byte_fallback() -> Any:
    """Sentencepiece BPE with byte fallback, as Llama 2, Mistral and Gemma have it."""
    letters = sorted(set("".join(SENTENCES).replace(" ", LLAMA_SPACE) + "Hello") - set("😀🎉学"))
    words = [LLAMA_SPACE + word for word in ("the", "learning", "Hello", "world")]
    pieces = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            pieces.append(word[: end + 1])
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=list(dict.fromkeys(merges)),
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(LLAMA_SPACE), normalizers.Replace(" ", LLAMA_SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(LLAMA_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(tokenizer, unk_token="<unk>")


@cache
def metaspace() -> Any:
    """Unigram with Metaspace, as T5 and newer sentencepiece conversions have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", BOS, EOS], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, "Hello? I don't!\n"] * 5, trainer)
    return _wrapped(tokenizer, unk_token="<unk>")


def _wrapped(tokenizer: Any, **names: str) -> Any:
    """Adds a BOS to prompts, a special token with a name, one that is only marked so, and a plain one."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (BOS, EOS, TOOL, MARKED)])
    tokenizer.add_tokens([AddedToken(THINK, special=False)])
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[TOOL],
        clean_up_tokenization_spaces=True,
        **names,
    )


@cache
def byte_level_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies, from the library's own encoder."""
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    shown: dict[int, str] = {}
    # All bytes that occur in UTF-8 text; the rest of the alphabet goes, in order, to those that never do.
    for character in [
        *map(chr, range(0x800)),
        *map(chr, range(0x800, 0xD800, 64)),
        *map(chr, range(0x10000, 0x110000, 4096)),
    ]:
        [(symbols, _)] = encode(character)
        shown |= dict(zip(character.encode(), symbols, strict=True))
    rest = iter(sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(shown.values())))
    return [shown.get(byte) or next(rest) for byte in range(256)]
