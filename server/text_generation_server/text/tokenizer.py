"""A model's tokenizer as the server needs it: the `tokenizers` library and a few facts, without transformers.

transformers decides what a checkpoint's tokenizer is, since it reads several formats and corrects some. Its decision
is made once, kept as JSON with the compiled programs, and read from there at the next start.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ModelTokenizer:
    """Text to token ids and back.

    Attributes:
        special_ids: ids that are not part of the final text. TGI's rule: the tokenizer's own special tokens
            and all added tokens that are marked special.
    """

    backend: Tokenizer
    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    special_ids: frozenset[int]

    @staticmethod
    def from_transformers(tokenizer: "PreTrainedTokenizerFast") -> "ModelTokenizer":
        marked = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        return ModelTokenizer(
            plain(tokenizer.backend_tokenizer.to_str()),
            tokenizer.bos_token,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            frozenset(tokenizer.all_special_ids) | marked,
        )

    def to_json(self) -> str:
        facts = {
            "backend": self.backend.to_str(),
            "bos_token": self.bos_token,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "special_ids": sorted(self.special_ids),
        }
        return json.dumps(facts)

    @staticmethod
    def from_json(text: str) -> "ModelTokenizer":
        """Raises ValueError or KeyError for anything but what `to_json` made."""
        facts = json.loads(text)
        special_ids = frozenset(facts.pop("special_ids"))
        return ModelTokenizer(plain(facts.pop("backend")), special_ids=special_ids, **facts)

    def __len__(self) -> int:
        """Number of tokens, added ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the tokens, special ones included, spaces as they are."""
        return str(self.backend.decode(list(token_ids), skip_special_tokens=False))

    def token(self, token_id: int) -> str | None:
        """The token in the words of the vocabulary; None for ids without one, which models may choose."""
        found: str | None = self.backend.id_to_token(token_id)
        return found


def plain(serialized: str) -> Tokenizer:
    """A tokenizer that neither cuts nor pads: lengths are judged here."""
    backend = Tokenizer.from_str(serialized)
    backend.no_truncation()
    backend.no_padding()
    return backend
