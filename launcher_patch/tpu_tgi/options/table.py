"""All options of `tpu-tgi`. Those that only the stock launcher knows are in `stock_only`."""

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
        "Of weights and KV cache: float16, bfloat16 or float32.",
        unit="DTYPE",
        otherwise="bfloat16 on a TPU, float32 on a CPU",
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

SHAPE = (
    Option(
        "--max-batch-size",
        Panel.SHAPE,
        int,
        "Requests that run at once; also HF_BATCH_SIZE.",
        unit="REQUESTS",
        otherwise="4, or what --max-batch-total-tokens holds",
        least=1,
    ),
    Option(
        "--max-total-tokens",
        Panel.SHAPE,
        int,
        "Prompt and answer of a request together; also HF_SEQUENCE_LENGTH.",
        unit="TOKENS",
        otherwise="what the model allows, at most 2048",
        least=2,
    ),
    Option(
        "--max-input-tokens",
        Panel.SHAPE,
        int,
        "The longest prompt.",
        unit="TOKENS",
        otherwise="--max-total-tokens less 1",
        least=1,
    ),
    Option(
        "--max-input-length",
        Panel.SHAPE,
        int,
        "The old name of --max-input-tokens.",
        unit="TOKENS",
        otherwise="as --max-input-tokens",
        least=1,
    ),
    Option(
        "--max-batch-prefill-tokens",
        Panel.SHAPE,
        int,
        "Prompts that are prefilled together.",
        unit="TOKENS",
        otherwise="--max-total-tokens: one longest prompt, or several short ones",
        least=1,
    ),
    Option(
        "--max-batch-total-tokens",
        Panel.SHAPE,
        int,
        "All running requests together: batch size times sequence length.",
        unit="TOKENS",
        otherwise="what the shard holds",
        least=1,
    ),
    Option(
        "--max-concurrent-requests",
        Panel.SHAPE,
        int,
        "Requests that run or wait; more are refused with status 429.",
        unit="REQUESTS",
        otherwise="128, or twice the batch size if that is more",
        least=1,
    ),
    Option(
        "--num-shard",
        Panel.SHAPE,
        int,
        "Processes that share the model; only 1 is served.",
        unit="PROCESSES",
        otherwise="1, whatever CUDA_VISIBLE_DEVICES lists",
    ),
)

ADMISSION = (
    Option(
        "--waiting-served-ratio",
        Panel.ADMISSION,
        float,
        "A running batch of n admits at least floor(ratio * n) requests at once, or none. 0 never waits: an "
        "admission recomputes no running request here, so there is nothing to wait for.",
        unit="RATIO",
        default=0.0,
        least=0,
    ),
    Option(
        "--max-waiting-tokens",
        Panel.ADMISSION,
        int,
        "After so many steps without an admission, fewer are admitted too.",
        unit="STEPS",
        default=20,
        least=0,
    ),
    Option(
        "--max-client-batch-size",
        Panel.ADMISSION,
        int,
        "Prompts in one request to /v1/completions.",
        unit="PROMPTS",
        default=4,
        least=1,
    ),
    Option(
        "--payload-limit",
        Panel.ADMISSION,
        int,
        "Size of a request's body.",
        unit="BYTES",
        default=2_000_000,
        least=1,
    ),
    Option(
        "--validation-workers",
        Panel.ADMISSION,
        int,
        "Threads that tokenise prompts.",
        unit="THREADS",
        default=2,
        least=1,
    ),
)

REQUESTS = (
    Option("--max-best-of", Panel.REQUESTS, int, "Highest `best_of`.", unit="SEQUENCES", default=2, least=1),
    Option(
        "--max-stop-sequences",
        Panel.REQUESTS,
        int,
        "Most `stop` sequences.",
        unit="SEQUENCES",
        default=4,
        least=0,
    ),
    Option(
        "--max-top-n-tokens",
        Panel.REQUESTS,
        int,
        "Highest `top_n_tokens`.",
        unit="TOKENS",
        default=5,
        least=0,
    ),
    Option(
        "--enable-prefill-logprobs",
        Panel.REQUESTS,
        bool,
        "Give the logprobs of prompts to requests that ask for them.",
        default=False,
        shard_variable="REQUEST_LOGPROBS",
    ),
    Option(
        "--disable-grammar-support",
        Panel.REQUESTS,
        bool,
        "Refuse requests with a grammar.",
        default=False,
    ),
    Option(
        "--watermark-gamma",
        Panel.REQUESTS,
        float,
        "Part of the vocabulary that a watermark favours.",
        unit="PART",
        otherwise="0.5",
        shard_variable="WATERMARK_GAMMA",
    ),
    Option(
        "--watermark-delta",
        Panel.REQUESTS,
        float,
        "What a watermark adds to the logits of that part.",
        unit="LOGIT",
        otherwise="2",
        shard_variable="WATERMARK_DELTA",
    ),
)

SERVER = (
    Option(
        "--hostname",
        Panel.SERVER,
        str,
        "IP address to serve on; another name, as containers set it, means 0.0.0.0.",
        unit="ADDRESS",
        default="0.0.0.0",
    ),
    Option(
        "--port",
        Panel.SERVER,
        int,
        "Of HTTP.",
        unit="PORT",
        default=3000,
        least=0,
        short="-p",
    ),
    Option(
        "--prometheus-port",
        Panel.SERVER,
        int,
        "Port that the stock router binds for a moment while it starts.",
        unit="PORT",
        otherwise="9000, or a free one if that is taken",
        least=1,
        stock_only=True,
    ),
    Option("--api-key", Panel.SERVER, str, "What clients send as `Authorization: Bearer ...`.", unit="KEY"),
    Option(
        "--cors-allow-origin",
        Panel.SERVER,
        list[str],
        "Origin of web pages that may call; may be repeated.",
        unit="ORIGIN",
        default=[],
        otherwise="every origin",
    ),
    Option(
        "--shard-uds-path",
        Panel.SERVER,
        str,
        "Socket between router and shard; -0 is appended.",
        unit="PATH",
        default="/tmp/text-generation-server",
    ),
    Option(
        "--graceful-termination-timeout",
        Panel.SERVER,
        int,
        "What running answers have on SIGTERM, and then the shard.",
        unit="SECONDS",
        default=90,
    ),
    Option("--json-output", Panel.SERVER, bool, "Log as JSON.", default=False),
)

LAUNCHER = (
    Option(
        "--embedded",
        Panel.LAUNCHER,
        bool,
        "Use the launcher and router in Python, even if the stock programs are in PATH.",
        default=False,
        own=True,
    ),
    Option(
        "--dry-run",
        Panel.LAUNCHER,
        bool,
        "Print the numbers, the memory that they take, and what would be started.",
        default=False,
        own=True,
    ),
    Option(
        "--log-level",
        Panel.LAUNCHER,
        str,
        "Of launcher, router and shard. The stock programs also take filters such as text_generation_router=debug.",
        unit="LEVEL",
        default="INFO",
        own=True,
    ),
)

OPTIONS = MODEL + SHAPE + ADMISSION + REQUESTS + SERVER + LAUNCHER
