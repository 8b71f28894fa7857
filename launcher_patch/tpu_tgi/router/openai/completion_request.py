"""Body of /v1/completions."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tpu_tgi.router.http.request_body import Items, Unsigned32
from tpu_tgi.router.openai.sampled_request import SampledRequest


def prompts(value: Any) -> Any:
    """One prompt, or several."""
    if value == []:
        raise ValueError("Empty array detected. Do not use an empty array for the prompt.")
    return [value] if isinstance(value, str) else value


class CompletionRequest(SampledRequest):
    """Texts to go on with. They are sampled unless `temperature` is 0.

    Attributes:
        model: the id of the adapter to use, unless it is "tgi".
        suffix: refused.
        seed: the same for every prompt.
    """

    prompt: Annotated[Items[str], BeforeValidator(prompts, json_schema_input_type=str | list[str])]
    max_tokens: Unsigned32 | None = None
    suffix: str | None = None
    repetition_penalty: float | None = None
