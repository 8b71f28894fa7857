"""What a request asks of the form of its output."""

from dataclasses import dataclass
from enum import Enum


class GrammarKind(Enum):
    """How a grammar is written: a JSON schema (routers up to 2.4.1), or a regular expression (all, protocol 4.5)."""

    JSON_SCHEMA = "JSON schema"
    REGEX = "regular expression"


@dataclass(frozen=True)
class Grammar:
    """A grammar that the whole output must match."""

    kind: GrammarKind
    text: str
