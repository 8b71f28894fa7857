"""How OpenAI's streams end."""

from tpu_tgi.router.errors import RequestError
from tpu_tgi.router.http.sse import event
from tpu_tgi.router.openai.responses import StreamError, StreamErrorEvent

DONE = b"data: [DONE]\n\n"


def error_event(error: RequestError) -> bytes:
    return event(StreamErrorEvent(error=StreamError(message=error.text)))
