"""A running service, as the terminal asks it."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

CHAT = "/v1/chat/completions"
CONNECT_SECONDS = 5.0


class ServiceError(RuntimeError):
    """The service cannot be reached, or refuses; the message is for people."""


@dataclass(frozen=True)
class WarmingUp:
    """What a service answers that is not ready: see `tpu_tgi.embedded.warming_up`."""

    status: str
    done: int | None
    total: int | None
    seconds_left: float | None


@dataclass(frozen=True)
class Piece:
    """Part of an answer. `tokens`: of the whole answer, which the last piece tells."""

    text: str
    tokens: int | None = None


class Service:
    """A service at an address, which is closed with `close`."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def close(self) -> None:
        self._client.close()

    def state(self) -> WarmingUp | str:
        """The name of the model, or how far the service is. Raises ServiceError if there is none."""
        with errors_as_service_error(self.url):
            response = self._client.get("/info")
        if response.status_code == 503:
            said = as_object(response.text)
            done, _, total = str(said.get("programs") or "").partition("/")
            known = done.isdigit() and total.isdigit()
            return WarmingUp(
                str(said.get("status", "starting")),
                int(done) if known else None,
                int(total) if known else None,
                said.get("seconds_left"),
            )
        if response.status_code != 200 or "model_id" not in (info := as_object(response.text)):
            raise ServiceError(f"{self.url} answers, but is no text generation service")
        return str(info["model_id"])

    def answer(self, body: dict[str, Any]) -> Generator[Piece]:
        """The answer to a chat, as it comes. Raises ServiceError."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with errors_as_service_error(self.url), self._client.stream("POST", CHAT, json=asked) as response:
            if response.status_code != 200:
                raise ServiceError(refusal(response.status_code, response.read().decode()))
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                yield piece(json.loads(data))


def piece(event: dict[str, Any]) -> Piece:
    """Raises ServiceError for the event that ends a stream which has failed."""
    if (error := event.get("error")) is not None:
        raise ServiceError(str(error["message"] if isinstance(error, dict) else error))
    usage = event.get("usage")
    text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return Piece(text, usage["completion_tokens"] if usage else None)


def refusal(status: int, text: str) -> str:
    if status == 401:
        return "The service wants an API key: give it as `--api-key KEY`, or in the variable API_KEY"
    said = as_object(text)
    error = said.get("error", text)
    return (
        str(error["message"] if isinstance(error, dict) else error) or f"The service answered with {status}"
    )


def as_object(text: str) -> dict[str, Any]:
    """Empty for what is no JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def errors_as_service_error(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.ConnectError as error:
        raise ServiceError(f"Nothing answers at {url}: `tpu-tgi demo` starts a service") from error
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise ServiceError(f"{url} cannot be asked: {error}") from error
