"""A model that is served for a while: `agentlm serve` as a child process that ends when this one does.

Refuses to know who asks it, and what.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from agentlm.tuning.checkpoint import TuneError

READY_SECONDS = 600.0
"""How long a model may take to load."""
CONTROL_SECONDS = 600.0
"""How long the server may take to exchange weights."""
POLL_SECONDS = 0.2
STOP_SECONDS = 30.0
_DIRECT = build_opener(ProxyHandler({}))
"""This machine's own servers are not asked through a proxy, whatever the environment says."""

# PR_SET_PDEATHSIG is 1, SIGKILL 9. The end of the thread that started the child sends it too: start it from the main one.
_ENDS_WITH_PARENT = """
import os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execvp(command[0], command)
"""


def start(command: Sequence[str], said: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Starts a command that is killed when this process ends, however that comes; what it says is added to `said`.

    It has a session of its own: Ctrl-C is this process's to handle. `environment` is added to this process's own.
    """
    with said.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _ENDS_WITH_PARENT, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks a process to end, and ends it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(log: Path, lines: int = 3) -> str:
    """The end of what a process said, in one line."""
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return " ".join(line.strip() for line in said[-lines:]) or "it said nothing"


class Served:
    """A server of one model directory, on a free port of this machine, with a key of its own.

    Raises `TuneError` with the server's last words if it ends, or does not answer in time; and whatever `wait` raises.
    """

    def __init__(
        self,
        model: str | Path,
        flags: Sequence[str],
        log: Path,
        *,
        guarded: bool = False,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """`guarded` asks for a key, as the operator's routes do; `wait` is called while the model loads."""
        self.key = secrets.token_urlsafe(24) if guarded else None
        log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "agentlm",
            "serve",
            "--model-id",
            str(model),
            "--hostname",
            "127.0.0.1",
        ]
        # By the environment: everybody may read a command line.
        environment = {} if self.key is None else {"API_KEY": self.key}
        self._log = log
        self._process = start([*command, "--port", "0", *flags], log, environment)
        try:
            self.url = self._ready(wait)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the server."""
        stop(self._process)

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """One of the operator's routes. Raises `TuneError` with the server's own words if it is refused."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        asked = Request(f"{self.url}{path}", json.dumps(body).encode(), headers, method="POST")
        try:
            with _DIRECT.open(asked, timeout=CONTROL_SECONDS) as answer:
                answer.read()
        except HTTPError as error:
            raise TuneError(
                f"{path} of {self.url}: {error.code}, {error.read().decode(errors='replace')[:300]}"
            ) from error
        except (OSError, HTTPException) as error:
            raise TuneError(f"{path} of {self.url}: {error}") from error

    def _ready(self, wait: Callable[[], None]) -> str:
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and self.alive:
            wait()
            for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
                if "ready: http" not in line:
                    continue
                url = line.partition("ready: ")[2].split()[0]
                try:
                    with _DIRECT.open(f"{url}/health", timeout=5):
                        return url
                except (OSError, HTTPException):
                    break
            time.sleep(POLL_SECONDS)
        raise TuneError(f"the server did not come up: {last_words(self._log)} (see {self._log})")
