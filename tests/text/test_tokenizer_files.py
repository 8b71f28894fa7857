"""Tokenizers that a checkpoint has in the format of another library encode as that library does."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import tiktoken

from text_generation_server.model.configuration import load_tokenizer
from text_generation_server.text.tokenizer import ModelTokenizer

TEXTS = ("Hello world", "two  spaces, a héron\nand 漢字", "12345 <unk> def f(x):\n    return x", "")

README = Path(__file__).parents[2] / "README.md"


def load(directory: Path, tokenizer_class: str) -> ModelTokenizer:
    """What is served of a directory that has a `tokenizer.model` and no tokenizer.json."""
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    facts = {
        "tokenizer_class": tokenizer_class,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(facts))
    return ModelTokenizer.from_transformers(load_tokenizer(directory))


@pytest.fixture
def lines() -> Iterator[str]:
    return iter(README.read_text().splitlines())


def test_a_sentencepiece_model_encodes_as_sentencepiece_does(tmp_path: Path, lines: Iterator[str]) -> None:
    model = io.BytesIO()
    # Trained as Llama's is.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    tokenizer = load(tmp_path, "LlamaTokenizer")

    assert len(tokenizer) == processor.vocab_size()
    # "<unk>" is a token of its own for transformers, and five characters for sentencepiece.
    texts = [text.replace("<unk>", "") for text in TEXTS]
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == processor.encode(texts)


def test_a_tiktoken_file_encodes_as_tiktoken_does(tmp_path: Path) -> None:
    words = [b"he", b"ll", b"llo", b"hello", b" w", b"or", b" wor", b"ld", b" world"]
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *words])}
    file = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (tmp_path / "tokenizer.model").write_text(file)
    # The pattern of GPT-4 and Llama 3, which transformers assumes.
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    oracle = tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    tokenizer = load(tmp_path, "PreTrainedTokenizerFast")

    texts = ("hello world", *(text.replace("<unk>", "") for text in TEXTS))
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == oracle.encode_batch(
        list(texts)
    )
