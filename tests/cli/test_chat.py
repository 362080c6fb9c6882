"""`agentlm chat` on a terminal: said and answered, Ctrl-C stops an answer, /reset and an empty line."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from tests.cli.commands import agentlm
from tests.model import families
from tests.model.small import make_small

pty = pytest.importorskip("pty")

SECONDS = 20.0


class Terminal:
    """`agentlm chat` behind a pseudo-terminal."""

    def __init__(self, *arguments: object, env: Mapping[str, str]) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "agentlm", "chat", *map(str, arguments)]
        # A session of its own, so that the terminal's Ctrl-C reaches this process and no other.
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            close_fds=True,
            env={**os.environ, **env},
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, times: int = 1) -> None:
        """Reads on until the terminal has shown `text` so often."""
        deadline = time.monotonic() + SECONDS
        while self.seen.count(text) < times:
            assert time.monotonic() < deadline, self.seen
            self._read(0.1)

    def wait_exit(self) -> int:
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self._read(0.1)
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            try:
                shown = os.read(self.master, 65536).decode(errors="replace")
                self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)  # without colours
            except OSError:  # the other side is closed
                time.sleep(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        os.close(self.master)


@pytest.fixture
def chat(tmp_path):
    opened: list[Terminal] = []

    def start(*arguments: object, **env: str) -> Terminal:
        model = ("--model", make_small(tmp_path), "--backend", "mock")
        opened.append(Terminal(*model, *arguments, env=env))
        opened[-1].wait_for("you: ")
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_a_conversation_goes_on_until_an_empty_line(chat):
    terminal = chat("--max-new-tokens", 8, "--mock-step-time", "0.001")
    for turn in (2, 3):
        terminal.type("hello there\n")
        terminal.wait_for("you: ", turn)
    terminal.type("/reset\n")
    terminal.wait_for("you: ", 4)
    answers = [part.split("\r\n")[1] for part in terminal.seen.split("you: ")[1:3]]
    assert all(answers)
    terminal.type("\n")
    assert terminal.wait_exit() == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(chat):
    terminal = chat("--max-new-tokens", 2000, "--mock-step-time", "0.02")
    terminal.type("talk\n")
    terminal.wait_for("talk\r\n")
    before = len(terminal.seen)
    while len(terminal.seen) <= before:
        terminal._read(0.1)
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("[stopped]")
    terminal.wait_for("you: ", 2)
    terminal.type("\x04")
    assert terminal.wait_exit() == 0


def test_a_message_that_does_not_fit_is_taken_back(chat):
    terminal = chat("--max-new-tokens", 20, "--max-total-tokens", 64, "--mock-step-time", "0.001")
    terminal.type("word " * 60 + "\n")
    terminal.wait_for("error: ")
    terminal.wait_for("you: ", 2)
    terminal.type("short\n")
    terminal.wait_for("you: ", 3)
    assert terminal.seen.count("error: ") == 1
    terminal.type("\n")
    assert terminal.wait_exit() == 0


def test_without_a_template_it_is_said_before_anybody_types(tmp_path):
    bare = families.without_chat_template(make_small(tmp_path), tmp_path / "bare")
    ran = agentlm("chat", "--model", bare, "--backend", "mock", stdin="hello\n")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {bare}: the checkpoint has no chat template")


def test_a_template_that_takes_other_words_only_is_asked_for_them(chat, tmp_path):
    (tmp_path / "mine.jinja").write_text(
        "{% if messages[-1].content != 'hello' %}{{ raise_exception('no') }}{% endif %}fine"
    )
    terminal = chat("--chat-template", tmp_path / "mine.jinja", "--max-new-tokens", 2)
    terminal.type("hello\n")
    terminal.wait_for("you: ", 2)
    terminal.type("\n")
    assert terminal.wait_exit() == 0


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(("--chat-template", "mine.jinja"), {}), ((), {"CHAT_TEMPLATE": "mine.jinja"})],
    ids=["option", "variable"],
)
def test_a_given_template_renders_the_conversation(chat, tmp_path, monkeypatch, arguments, env):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jinja").write_text("{{ raise_exception('mine has heard ' + messages[-1].content) }}")
    terminal = chat(*arguments, **env)
    terminal.type("hello\n")
    terminal.wait_for("error: mine has heard hello")
    assert terminal.wait_exit() == 1
