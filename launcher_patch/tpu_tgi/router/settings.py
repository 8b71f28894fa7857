"""What the router is told by the launcher."""

from dataclasses import dataclass, field

# Versions under which clients know these routes: the stock router reports them in /info.
ROUTER_NAME = "text-generation-router"
ROUTER_VERSION = "3.3.6-dev0"


@dataclass(frozen=True)
class RouterSettings:
    """The stock router's options, with the stock router's meaning. Lengths are in tokens.

    Attributes:
        max_input_tokens, max_total_tokens: None leaves them to the shard.
        max_batch_prefill_tokens: prompt tokens in one prefill; None is 4096, less where the shard holds less.
        max_concurrent_requests: None is 128, or twice the slots of the shard if that is more.
        max_batch_size: None leaves it to the shard's cache.
        waiting_served_ratio: a running batch of n admits at least floor(ratio * n) requests at once, or none.
        max_waiting_tokens: after so many steps without an admission it admits fewer, too.
        max_client_batch_size: prompts in one request to /v1/completions.
        payload_limit: bytes of a request body.
        served_model_name: what answers call the model; None is its id.
        api_keys: more of them, each of which is enough.
        api_key: what clients send as `Authorization: Bearer ...`; None lets everybody in.
        cors_allow_origin: the origins of web pages that may call; empty allows every one.
        disable_grammar_support: refuse requests that ask for a grammar.
        tokenizer_config_path: read instead of the model's own tokenizer_config.json.
        validation_workers: threads that tokenise prompts.
        page: whether browsers get the page for people at `/`.
        compute_type: the response header `x-compute-type`; None names the shard's device.
    """

    model_id: str
    revision: str | None = None
    served_model_name: str | None = None
    max_concurrent_requests: int | None = None
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None
    max_batch_size: int | None = None
    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    max_client_batch_size: int = 4
    payload_limit: int = 2_000_000
    validation_workers: int = 2
    compute_type: str | None = None
    api_key: str | None = field(default=None, repr=False)
    cors_allow_origin: tuple[str, ...] = ()
    disable_grammar_support: bool = False
    tokenizer_config_path: str | None = None
    page: bool = True
    api_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def model_name(self) -> str:
        return self.served_model_name or self.model_id

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that lets a client in; empty lets everybody in."""
        return self.api_keys if self.api_key is None else (self.api_key, *self.api_keys)
