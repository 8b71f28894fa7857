"""`tpu-tgi chat` in front of a fake shard: at a terminal, and in a pipe."""

import subprocess

import pytest

from front.conftest import StartFront
from front.launched import clean_environment, free_port
from front.running_front import RunningFront, wait_until
from terminal.terminal import COMMAND, exit_code, terminal


def piped(lines: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "chat", *words],
        input=lines,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def url(front: RunningFront) -> str:
    return f"http://127.0.0.1:{front.port}"


def test_somebody_talks_stops_an_answer_and_leaves(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.05, "max_length": 512}) as front,
        terminal("chat", url(front)) as opened,
    ):
        opened.wait_for("> ")
        opened.type("hello\n")
        opened.wait_for("é1 é2 é3 é4 é5 é6")
        opened.type("\x03")
        opened.wait_for("…")
        wait_until(lambda: front.shard.is_empty)
        opened.type("/new\n")
        opened.type("again eos-2\n")
        opened.wait_for("2 tokens, ")
        assert front.shard.requests[-1].input_chunks.chunks[0].text == "<s> user: again eos-2 assistant:"
        opened.type("\x04")
        assert exit_code(opened) == 0


def test_lines_of_a_pipe_are_one_conversation(front: RunningFront) -> None:
    options = ["--system", "be short", "--temperature", "0", "--max-tokens", "9"]
    outcome = piped("one eos-3\ntwo eos-2\n", url(front), *options)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "é1 é2\né1 é2\n"
    request = front.shard.requests[-1]
    assert request.input_chunks.chunks[0].text == (
        "<s> system: be short user: one eos-3 assistant: é1 é2 user: two eos-2 assistant:"
    )
    assert (request.stopping_parameters.max_new_tokens, request.parameters.do_sample) == (9, False)


def test_what_is_refused_is_said_and_forgotten(front: RunningFront) -> None:
    outcome = piped(f"{'word ' * 80}\nshort eos-2\n", url(front))
    assert "`inputs` tokens + `max_new_tokens` must be <= 64" in outcome.stdout
    assert outcome.stdout.endswith("é1\n")


def test_a_key_is_asked_for_and_taken_from_the_environment(start_front: StartFront) -> None:
    with start_front(api_key="secret-1") as front:
        assert "give it as `--api-key KEY`" in piped("a eos-2\n", url(front)).stdout
        assert piped("a eos-2\n", url(front), "--api-key", "secret-1").stdout == "é1\n"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://127.0.0.1:{port}",
            "Error: Nothing answers at http://127.0.0.1:{port}: `tpu-tgi demo` starts",
        ),
        ("ftp://127.0.0.1", "Error: ftp://127.0.0.1 cannot be asked"),
    ],
)
def test_an_address_without_a_service_ends_with_1(address: str, message: str) -> None:
    port = free_port()
    outcome = piped("a\n", address.format(port=port))
    assert outcome.returncode == 1
    assert message.format(port=port) in outcome.stderr
