"""Which model is served, and how its weights are read."""

from enum import StrEnum

from tpu_tgi.options.option import Option, Panel


class Dtype(StrEnum):
    """What the shard can be asked for; the stock launcher does not know float32."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


MODEL = (
    Option(
        "--model-id",
        Panel.MODEL,
        str,
        "Local directory, or name of a model on the hub.",
        unit="MODEL",
        required=True,
    ),
    Option(
        "--served-model-name",
        Panel.MODEL,
        str,
        "Name of the model in answers, /info and /v1/models; only the router in Python can change it.",
        unit="NAME",
        otherwise="--model-id",
        own=True,
    ),
    Option(
        "--revision",
        Panel.MODEL,
        str,
        "Branch, tag or commit of a hub model.",
        unit="REVISION",
        otherwise="the hub's default branch",
    ),
    Option(
        "--dtype",
        Panel.MODEL,
        Dtype,
        "Type of weights and KV cache: float16, bfloat16 or float32.",
        unit="DTYPE",
        otherwise="bfloat16 on a TPU, float32 on a CPU",
    ),
    Option(
        "--quantize",
        Panel.MODEL,
        str,
        "Make linear layers int8 (also eetq, bitsandbytes) or fp8; gptq, awq, compressed-tensors: the model comes so.",
        unit="FORMAT",
        otherwise="as the model's files have them",
    ),
    Option(
        "--trust-remote-code",
        Panel.MODEL,
        bool,
        "Accepted: code from a model's repository is never run.",
        default=False,
    ),
    Option(
        "--lora-adapters",
        Panel.MODEL,
        str,
        "LoRA adapters, `name=directory` or hub names, with commas between them.",
        unit="ADAPTERS",
        shard_variable="LORA_ADAPTERS",
    ),
    Option(
        "--tokenizer-config-path",
        Panel.MODEL,
        str,
        "Read instead of the model's own tokenizer_config.json.",
        unit="FILE",
    ),
    Option(
        "--huggingface-hub-cache",
        Panel.MODEL,
        str,
        "Directory of downloaded models.",
        unit="DIRECTORY",
        otherwise="huggingface_hub's own",
        shard_variable="HUGGINGFACE_HUB_CACHE",
    ),
    Option(
        "--weights-cache-override",
        Panel.MODEL,
        str,
        "Directory that holds the model, or downloaded models; before the hub cache.",
        unit="DIRECTORY",
        shard_variable="WEIGHTS_CACHE_OVERRIDE",
    ),
)
