"""Models share the compiled programs that do not depend on what sets them apart."""

from pathlib import Path

from support import engines
from support.checkpoints import save

NAMES = ("forward 80", "seat", "admit none", "choose none", "constrain")


def made_anew(model_type: str, directory: Path, **changes: object) -> set[str]:
    """The programs of a new model that are not found in the cache of this run."""
    save(model_type, directory / model_type, **changes)
    loader = engines.loader(directory / model_type)
    compiler = loader.compiler(loader.shape(3, 80))
    compiler.prepare(NAMES, lambda _: None)
    return set(compiler.compiled)


def test_a_second_model_of_the_same_vocabulary_compiles_only_what_reads_it(tmp_path: Path) -> None:
    assert made_anew("llama", tmp_path) == set(NAMES)
    assert made_anew("stablelm", tmp_path) == {"forward 80"}
    # One more layer is another cache, and that is what `seat` copies.
    assert made_anew("olmo2", tmp_path, num_hidden_layers=3) == {"forward 80", "seat"}
    assert made_anew("qwen3", tmp_path, vocab_size=192) == set(NAMES) - {"seat"}
