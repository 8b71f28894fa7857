"""A tokenizer that counts words, and a router in front of a fake shard."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from front.fake_shard import FakeShard
from front.running_front import RunningFront, running_front
from tpu_tgi.router.settings import RouterSettings

CHAT_TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}assistant:"

StartFront = Callable[..., AbstractContextManager[RunningFront]]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds only a tokenizer, in which every word is a token and `<s>` comes before them, and a chat template."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "<s>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    # A limit in the file must not shorten what is counted.
    tokenizer.enable_truncation(5)
    directory = tmp_path_factory.mktemp("model")
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"chat_template": CHAT_TEMPLATE, "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    # What every model has, and nothing here looks into.
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()
    return directory


@pytest.fixture
def start_front(model_directory: Path, tmp_path: Path) -> StartFront:
    """Starts a router with the given changes to the settings, in front of a shard with the given changes."""

    def start(shard: dict[str, Any] | None = None, **settings: Any) -> AbstractContextManager[RunningFront]:
        return running_front(
            FakeShard(str(tmp_path / "shard-0"), **(shard or {})),
            RouterSettings(model_id=str(model_directory), compute_type="1-fake", **settings),
        )

    return start


@pytest.fixture(scope="module")
def front(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFront]:
    """One router for all tests of a module that do not disturb each other."""
    socket_path = str(tmp_path_factory.mktemp("socket") / "shard-0")
    with running_front(
        FakeShard(socket_path), RouterSettings(model_id=str(model_directory), compute_type="1-fake")
    ) as running:
        yield running
