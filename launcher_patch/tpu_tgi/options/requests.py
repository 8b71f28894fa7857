"""Which requests are let in, and what they may ask for."""

from tpu_tgi.options.option import Option, Panel

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
        "--disable-grammar-support", Panel.REQUESTS, bool, "Refuse requests with a grammar.", default=False
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
