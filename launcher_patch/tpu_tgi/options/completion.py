"""What a shell completes for `tpu-tgi`: which words it asks about, and for which of the commands.

typer's functions for bash hand over all words and the number of the current one, those for zsh and fish the line up
to the cursor.
"""

from collections.abc import Mapping

COMPLETE = "_TPU_TGI_COMPLETE"
"""Set when a shell asks, to `complete_` and its name."""

LINE = "_TYPER_COMPLETE_ARGS"
BASH_WORDS, BASH_CURRENT = "COMP_WORDS", "COMP_CWORD"


def words_to_complete(environment: Mapping[str, str]) -> list[str]:
    """The words after the program up to the one that is completed, which may be empty."""
    if environment[COMPLETE] == "complete_bash":
        current = int(environment[BASH_CURRENT])
        words = environment[BASH_WORDS].split()[1 : current + 1]
        return words + [""] * (current - len(words))
    return environment.get(LINE, "").split(" ")[1:]


def asked_of(program: str, words: list[str]) -> dict[str, str]:
    """The variables in which a shell would ask the same if `words` were all that follows `program`."""
    line = " ".join([program, *words])
    return {BASH_WORDS: line, BASH_CURRENT: str(len(words)), LINE: line}
