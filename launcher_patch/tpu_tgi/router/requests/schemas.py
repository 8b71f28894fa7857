"""Bodies of the routes of TGI's own interface, with the stock router's rules for null and absence."""

from typing import ClassVar

from pydantic import Field

from tpu_tgi.router.http.request_body import Items, RequestBody, Signed32, Unsigned32, Unsigned64
from tpu_tgi.router.requests.grammar import Grammar


class GenerateParameters(RequestBody):
    """The `parameters` of /generate, /generate_stream and /."""

    best_of: Unsigned64 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Signed32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: Unsigned32 | None = None
    return_full_text: bool | None = None
    stop: Items[str] = Field(default_factory=list)
    truncate: Unsigned64 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Unsigned64 | None = None
    top_n_tokens: Unsigned32 | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None


class GenerateRequest(RequestBody):
    """Body of /generate and /generate_stream. Without `parameters` it samples; with `{}` it is greedy."""

    add_special_tokens: ClassVar[bool] = True

    inputs: str
    parameters: GenerateParameters = GenerateParameters(do_sample=True)


class TemplatedRequest(GenerateRequest):
    """A prompt that was made by a chat template, which has written the special tokens."""

    add_special_tokens: ClassVar[bool] = False


class CompatGenerateRequest(GenerateRequest):
    """Body of `/`, which older clients call."""

    stream: bool = False
