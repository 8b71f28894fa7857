"""Body of /v1/completions."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tpu_tgi.router.http.request_body import Items, RequestBody, Unsigned32, Unsigned64
from tpu_tgi.router.openai.values import StopSequences, TopP


def prompts(value: Any) -> Any:
    """One prompt, or several."""
    if value == []:
        raise ValueError("Empty array detected. Do not use an empty array for the prompt.")
    return [value] if isinstance(value, str) else value


class CompletionRequest(RequestBody):
    """Texts to go on with. They are sampled unless `temperature` is 0.

    Attributes:
        model: the id of the adapter to use, unless it is "tgi".
        suffix: refused.
        seed: the same for every prompt.
    """

    prompt: Annotated[Items[str], BeforeValidator(prompts, json_schema_input_type=str | list[str])]
    model: str | None = None
    max_tokens: Unsigned32 | None = None
    temperature: float | None = None
    top_p: TopP = None
    stream: bool = False
    seed: Unsigned64 | None = None
    suffix: str | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: StopSequences | None = None
