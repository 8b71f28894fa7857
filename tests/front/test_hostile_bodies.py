"""One body of 2 MB holds nobody else up, whatever is in it and whoever sends it."""

import json
import subprocess
import sys

import pytest

from front.conftest import StartFront
from front.hostile import HOSTILE, MESSAGES
from front.loop_pause import longest_pause
from front.running_front import RunningFront

LONGEST_PAUSE_SECONDS = 0.05

# The sender is a process of its own, or it would compete for the same interpreter.
SENDER = """
import sys, urllib.request, urllib.error
headers = {"content-type": "application/json"}
request = urllib.request.Request(sys.argv[1], sys.stdin.buffer.read(), headers)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
except urllib.error.URLError:
    sys.exit("cut off")
answer.read()
print(answer.status)
"""


def send(front: RunningFront, path: str, body: bytes) -> int | None:
    """The status of the answer; None if the connection was closed before the body was sent."""
    command = [sys.executable, "-c", SENDER, f"http://127.0.0.1:{front.port}{path}"]
    done = subprocess.run(command, input=body, capture_output=True, check=False, timeout=90)
    return int(done.stdout) if done.returncode == 0 else None


@pytest.mark.parametrize(("path", "body", "status"), HOSTILE)
def test_a_hostile_body_does_not_stop_the_loop(
    front: RunningFront, path: str, body: bytes, status: int
) -> None:
    pauses = []
    # What stops the loop does so each time; a busy machine does not.
    for _ in range(3):
        with longest_pause(front.loop) as pause:
            assert send(front, path, body) == status
        pauses.append(pause.seconds)
        if pause.seconds < LONGEST_PAUSE_SECONDS:
            return
    pytest.fail(f"the loop stood still for {pauses} s")


@pytest.mark.parametrize("path", sorted({path for path, _, _ in HOSTILE}))
def test_without_the_key_a_hostile_body_is_not_even_looked_at(start_front: StartFront, path: str) -> None:
    body = next(body for other, body, _ in HOSTILE if other == path)
    with start_front(api_key="secret") as front, longest_pause(front.loop) as pause:
        assert send(front, path, body) in (401, None)
    assert pause.seconds < LONGEST_PAUSE_SECONDS


def test_brackets_in_a_text_are_not_counted_as_objects(front: RunningFront) -> None:
    body = json.dumps({"inputs": "[{" * 100_000 + " eos-1", "parameters": {"truncate": 3}}).encode()
    assert send(front, "/generate", body) == 200


@pytest.mark.parametrize("path", ["/tokenize", "/chat_tokenize"])
def test_tokenising_needs_a_permit(start_front: StartFront, path: str) -> None:
    with start_front(max_concurrent_requests=0) as front:
        response = front.client.post(path, json={"inputs": "a", "messages": MESSAGES})
        assert response.status_code == 429
        assert response.json()["error_type"] == "overloaded"
