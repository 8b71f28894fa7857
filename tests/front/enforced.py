"""What the shard's grammar library lets a model write under the grammar that the router sent."""

import llguidance

from text_generation_server.grammar.compilation import lark
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.pb import messages_pb2 as pb

KINDS = {pb.GRAMMAR_TYPE_JSON: GrammarKind.JSON_SCHEMA, pb.GRAMMAR_TYPE_REGEX: GrammarKind.REGEX}


def allows(parameters: pb.NextTokenChooserParameters, text: str) -> bool:
    """Whether the whole text may be written, one byte at a time."""
    source = lark(Grammar(KINDS[parameters.grammar_type], parameters.grammar))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    written = list(text.encode())
    return matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting()
