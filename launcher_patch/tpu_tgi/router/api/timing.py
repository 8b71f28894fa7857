"""How long a request took, as the headers of the stock router tell it (HTTP reference, section 4)."""

import time

from tpu_tgi.router.shard.generation import GenerationResult


def timing_headers(
    arrived: float, inputs: str, result: GenerationResult, compute_type: str
) -> dict[str, str]:
    """The headers of an answer that is not streamed. `arrived` is of `time.perf_counter`."""
    now = time.perf_counter()
    inference = now - result.started
    return {
        "x-compute-type": compute_type,
        "x-compute-time": f"{now - arrived:.9f}",
        "x-compute-characters": str(len(inputs)),
        "x-total-time": milliseconds(now - arrived),
        "x-validation-time": milliseconds(result.queued - arrived),
        "x-queue-time": milliseconds(result.started - result.queued),
        "x-inference-time": milliseconds(inference),
        "x-time-per-token": milliseconds(inference / result.generated.generated_tokens),
        "x-prompt-tokens": str(result.input_length),
        "x-generated-tokens": str(result.generated.generated_tokens),
    }


def summed_headers(answers: list[dict[str, str]]) -> dict[str, str]:
    """The headers of several answers in one: sums, without the seconds as a fraction."""
    first = answers[0]
    sums = {
        name: str(sum(int(headers[name]) for headers in answers))
        for name in first
        if name not in ("x-compute-type", "x-compute-time")
    }
    return {"x-compute-type": first["x-compute-type"], **sums}


def stream_headers(inputs: str, compute_type: str) -> dict[str, str]:
    """The headers of a stream, which are sent before anything is known of its timing."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(len(inputs))}


def milliseconds(seconds: float) -> str:
    """Whole milliseconds, cut off."""
    return str(int(seconds * 1000))
