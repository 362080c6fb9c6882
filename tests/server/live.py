"""A served process and the few calls that tests make to it. Refuses to know what is tested."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

SECONDS = 30.0
"""How long a test waits for something that should come at once."""


class Live:
    """`agentlm serve` in a process of its own, on a free port of the loopback."""

    def __init__(
        self, *arguments: object, stderr: Any = subprocess.PIPE, before: Callable[[], None] | None = None
    ) -> None:
        # Requests are not logged unless a test says so: what the server says by itself is looked at.
        command = [sys.executable, "-m", "agentlm", "serve", "--hostname", "127.0.0.1", "--log-level", "off"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            preexec_fn=before,
        )
        self.lines: list[str] = []
        self.port = 0
        self._ready = threading.Event()
        if stderr == subprocess.PIPE:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(r"\bready: https?://127\.0\.0\.1:(\d+) ", line):
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> "Live":
        assert self._ready.wait(SECONDS), self.lines
        assert self.port, self.lines
        return self

    def wait_exit(self) -> int:
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)

    def send(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """An answer whose body is still to be read. `body` is JSON unless it is bytes."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        connection.request(method, path, data, headers | ({"Authorization": f"Bearer {key}"} if key else {}))
        return connection, connection.getresponse()

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Status and body: an object where it is JSON, else text."""
        connection, response = self.send(method, path, body, key)
        with contextlib.closing(connection):
            text = response.read().decode()
        with contextlib.suppress(ValueError):
            return response.status, json.loads(text)
        return response.status, text

    def generate(self, inputs: str, **parameters: Any) -> tuple[int, Any]:
        return self.call("POST", "/generate", {"inputs": inputs, "parameters": parameters})

    def stream(self, inputs: str, **parameters: Any) -> tuple[HTTPConnection, HTTPResponse]:
        return self.send("POST", "/generate_stream", {"inputs": inputs, "parameters": parameters})

    def metric(self, name: str) -> float:
        """One sample of `/metrics`, by its name with labels."""
        for line in self.call("GET", "/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    def usable_blocks(self) -> float:
        return self.metric('agentlm_blocks{state="free"}') + self.metric('agentlm_blocks{state="cached"}')

    def wait_idle(self) -> None:
        """Returns once nothing is in the engine and no request holds a block."""
        deadline = time.monotonic() + SECONDS
        names = (
            "agentlm_unfinished",
            "tgi_batch_current_size",
            "tgi_queue_size",
            'agentlm_blocks{state="held"}',
        )
        while any(self.metric(name) for name in names):
            assert time.monotonic() < deadline, {name: self.metric(name) for name in names}
            time.sleep(0.02)

    def resident(self) -> int:
        """Bytes of memory that the process has in use."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[Live]:
    """A server that is ready; gone afterwards."""
    live = Live("--port", 0, *arguments)
    try:
        yield live.wait_ready()
    finally:
        live.stop()


def events(response: HTTPResponse) -> Iterator[Any]:
    """The data of each server-sent event, up to the end or [DONE]."""
    for line in response:
        text = line.decode().strip()
        if text.startswith("data:") and (data := text.removeprefix("data:").strip()) != "[DONE]":
            yield json.loads(data)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
