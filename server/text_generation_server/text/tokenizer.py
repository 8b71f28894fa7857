"""The tokenizer of a model without the library that loaded it: what it takes to encode, to decode, and to be stored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ModelTokenizer:
    """A fast tokenizer and the facts that stand beside it in a checkpoint.

    Attributes:
        backend: neither truncates nor pads.
        bos_token, bos_token_id, eos_token, eos_token_id: None if it has none.
        special_ids: ids that are not part of the final text. TGI's rule: the tokenizer's own special tokens
            and all added tokens that are marked special.
    """

    backend: Tokenizer
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    special_ids: frozenset[int]

    @classmethod
    def from_transformers(cls, tokenizer: "PreTrainedTokenizerFast") -> "ModelTokenizer":
        """The same tokenizer; `tokenizer` itself is left as it is. ValueError if it is not a fast one."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"The tokenizer must be a fast one, with a tokenizer.json. Given: {type(tokenizer).__name__}"
            )
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        marked = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        return cls(
            backend,
            bos_token=tokenizer.bos_token,
            bos_token_id=tokenizer.bos_token_id,
            eos_token=tokenizer.eos_token,
            eos_token_id=tokenizer.eos_token_id,
            special_ids=frozenset(tokenizer.all_special_ids) | marked,
        )

    @classmethod
    def from_json(cls, text: str) -> "ModelTokenizer":
        """What `to_json` wrote. ValueError for any other text."""
        try:
            fields = json.loads(text)
            return cls(
                Tokenizer.from_str(fields["tokenizer"]),
                bos_token=fields["bos_token"],
                bos_token_id=fields["bos_token_id"],
                eos_token=fields["eos_token"],
                eos_token_id=fields["eos_token_id"],
                special_ids=frozenset(fields["special_ids"]),
            )
        except Exception as error:
            raise ValueError(f"This is no stored tokenizer: {error!r}") from error

    def to_json(self) -> str:
        """All of it, so that it can be read back without transformers."""
        return json.dumps(
            {
                "tokenizer": self.backend.to_str(),
                "bos_token": self.bos_token,
                "bos_token_id": self.bos_token_id,
                "eos_token": self.eos_token,
                "eos_token_id": self.eos_token_id,
                "special_ids": sorted(self.special_ids),
            }
        )

    def __len__(self) -> int:
        """Number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token(self, token_id: int) -> str | None:
        """How the vocabulary spells a token; None for ids without a token."""
        return self.backend.id_to_token(token_id)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a text, whole."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the tokens, special ones included, spaces as they are.

        The clean-up of spaces that transformers can add looks at neighbours, so that pieces would no longer
        concatenate to the whole.
        """
        return self.backend.decode(token_ids, skip_special_tokens=False)
