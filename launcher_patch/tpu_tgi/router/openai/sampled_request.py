"""What the bodies of both OpenAI routes have in common."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tpu_tgi.router.http.request_body import Items, RequestBody, Unsigned64
from tpu_tgi.router.requests.grammar import Grammar
from tpu_tgi.router.requests.schemas import GenerateParameters


def listed(value: Any) -> Any:
    """A client of OpenAI may send one stop sequence as a string; the stock router takes lists only."""
    return [value] if isinstance(value, str) else value


StopSequences = Annotated[Items[str], BeforeValidator(listed, json_schema_input_type=str | list[str])]


def off_at_one(value: Any) -> Any:
    """A client of OpenAI says 1 for "off"; the stock router refuses it."""
    return None if isinstance(value, int | float) and value is not True and value == 1 else value


TopP = Annotated[float | None, BeforeValidator(off_at_one)]


class SampledRequest(RequestBody):
    """What both routes let a client say of the choice of tokens. They sample unless `temperature` is 0."""

    model: str | None = None
    frequency_penalty: float | None = None
    stop: StopSequences | None = None
    stream: bool = False
    seed: Unsigned64 | None = None
    temperature: float | None = None
    top_p: TopP = None

    def parameters(
        self,
        *,
        max_new_tokens: int | None,
        repetition_penalty: float | None,
        top_n_tokens: int | None = None,
        grammar: Grammar | None = None,
    ) -> GenerateParameters:
        """The same in TGI's words. `model` names an adapter, unless it is "tgi"."""
        return GenerateParameters(
            do_sample=self.temperature != 0,
            temperature=self.temperature or None,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=repetition_penalty,
            max_new_tokens=max_new_tokens,
            stop=self.stop or [],
            seed=self.seed,
            top_n_tokens=top_n_tokens,
            details=True,
            grammar=grammar,
            adapter_id=None if self.model == "tgi" else self.model,
        )
