"""A GGUF file is served as transformers reads it, converted once, a tensor at a time."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer

from support import engines
from support.checkpoints import generate
from support.driver import Driver
from support.gguf_files import write_gguf
from text_generation_server import gguf_files
from text_generation_server.errors import UnsupportedModelError
from text_generation_server.hub import model_directory
from text_generation_server.model.configuration import load_tokenizer
from text_generation_server.model.gguf_conversion import convert
from wire.small_hub import MODEL, small_hub

PROMPT = [5, 9, 133, 44, 270]


@pytest.mark.parametrize(
    ("architecture", "kind", "dtype"),
    [
        # Queries and keys of the first are in another order there; the second has biases.
        ("llama", GGMLQuantizationType.Q8_0, torch.float16),
        ("qwen2", GGMLQuantizationType.Q4_0, torch.float16),
        ("llama", GGMLQuantizationType.F32, torch.float32),
    ],
)
def test_a_gguf_file_generates_what_transformers_generates_from_it(
    architecture: str, kind: GGMLQuantizationType, dtype: torch.dtype, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", architecture, kind)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=dtype)
    # What was read of a GGUF file cannot be turned into float32 as it is.
    del read.config.quantization_config
    reference = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    reference.load_state_dict(read.state_dict())
    reference.eval()
    directory = tmp_path / "converted"
    directory.mkdir()
    convert(file, directory)
    engine = engines.loader(directory, batch_size=1, max_length=64, skip_warmup=True).load()
    driver = Driver(engine)
    run = driver.join(0, PROMPT)
    driver.step(16)
    expected = generate(reference, PROMPT, 16)
    assert run.tokens == expected.tokens
    torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=1e-3, atol=1e-3)
    text = "Deep learning is a field."
    original = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    assert load_tokenizer(directory)(text)["input_ids"] == original(text)["input_ids"]


def test_a_gguf_file_is_converted_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "llama", GGMLQuantizationType.Q8_0)
    cache = {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "cache")}
    first = model_directory(str(file), None, cache)
    assert {path.name for path in first.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert (first / "chat_template.jinja").read_text().startswith("{% for message")
    made: list[Path] = []
    monkeypatch.setattr(gguf_files, "make", lambda _, directory: made.append(directory))
    assert model_directory(str(file), None, cache) == first
    assert not made
    write_gguf(file, "qwen2", GGMLQuantizationType.Q8_0)
    assert model_directory(str(file), None, cache) == made[0] != first


def test_a_gguf_file_on_the_hub_is_chosen_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "llama", GGMLQuantizationType.Q8_0)
    cache = {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "cache")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files = {"tiny-Q8_0.gguf": file.read_bytes(), "tiny-Q4_0.gguf": b"another", "README.md": b"words"}
    with small_hub(files) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        with pytest.raises(UnsupportedModelError, match=r"names 0.*tiny-Q8_0\.gguf, tiny-Q4_0\.gguf"):
            model_directory(f"{MODEL}:Q5_K_M", None, cache)
        directory = model_directory(f"{MODEL}:q8_0", None, cache)
    assert set(hub.fetched) == {"tiny-Q8_0.gguf"}
    assert (directory / "config.json").is_file()
    # Nobody answers there any more.
    assert model_directory(f"{MODEL}:q8_0", None, cache) == directory


def test_a_hub_that_does_not_answer_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnsupportedModelError, match="is not in the cache and cannot be downloaded") as caught:
        model_directory(f"{MODEL}:Q8_0", None, {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "cache")})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file here; on the hub, NAME/REPOSITORY:Q8_0 names one"),
        (b"GGUF but nothing else", "cannot be read"),
    ],
)
def test_what_is_no_gguf_file_is_refused_in_one_line(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "broken.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        model_directory(str(file), None, {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "cache")})
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob(".new-*"))
