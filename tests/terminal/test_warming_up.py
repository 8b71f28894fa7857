"""The bar that a terminal shows while a service warms up."""

from pathlib import Path

from front.launched import free_port, launched, path_with_server
from terminal.terminal import terminal


def test_the_terminal_shows_how_far_the_start_is(model_directory: Path, tmp_path: Path) -> None:
    gate = tmp_path / "go on"
    environment = {
        "FAKE_PROGRAMS": "3/19",
        "FAKE_WAITS_FOR": str(gate),
        "PATH": path_with_server(tmp_path, "front.fake_text_generation_server"),
    }
    words = [str(model_directory), "--hostname", "127.0.0.1", "--port", str(free_port())]
    with terminal(*words, environment=environment) as opened:
        opened.wait_for("3/19 programs")
        assert "Warm-up 3/19: decode of 64 tokens" in opened.shown
        gate.touch()
        opened.wait_for("Ready: serving on")


def test_a_chat_waits_for_a_service_that_warms_up(model_directory: Path, tmp_path: Path) -> None:
    gate = tmp_path / "go on"
    environment = {"FAKE_PROGRAMS": "3/19", "FAKE_WAITS_FOR": str(gate)}
    with launched(tmp_path, str(model_directory), environment=environment) as running:
        running.wait_until_answering()
        with terminal("chat", running.url) as opened:
            opened.wait_for("3/19 programs")
            gate.touch()
            opened.wait_for("> ")
            opened.type("hello eos-3\n")
            opened.wait_for("é1 é2")
