"""A sandbox as tasks use it: start, run programs, open a login shell, close. Blocking; call it from a worker thread.

When the process that owns a sandbox ends, however it ends, the sandbox ends with it. Refuses to know what runs inside.
"""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from agentlm_evals.errors import EnvironmentFault, RequirementError
from agentlm_evals.sandbox.limits import OUT_OF_MEMORY, Layout, Limits, to_json
from agentlm_evals.sandbox.wire import receive, send

START_SECONDS = 20.0
CLOSE_SECONDS = 10.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


@dataclass(frozen=True, slots=True)
class Finished:
    """A program's end."""

    status: int | None
    """Exit status; minus the signal's number; None if it was stopped for its time or because the sandbox was gone."""
    output: bytes
    """Standard output and standard error in order of arrival, up to the caller's limit."""
    truncated: bool
    timed_out: bool

    @property
    def text(self) -> str:
        """The output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.output.decode(errors="replace")


class SandboxGone(EnvironmentFault):
    """The sandbox ended before it was closed: its keeper was killed, or the machine ran out of something."""


class MemoryCapReached(SandboxGone):
    """What ran inside took more memory than the sandbox may have, and the sandbox ended."""


class Sandbox:
    """One sandbox. Use it as a context manager. `cgroup=False` does without one where there could be one.

    Raises:
        RequirementError: This machine does not let namespaces be made; the message says which call failed.
    """

    def __init__(self, layout: Layout, limits: Limits, *, cgroup: bool = True) -> None:
        self.limits = limits
        self.caps = ""
        """What enforces the caps: a cgroup's controllers, or `rlimits`."""
        self._numbers = 0
        self._stage = tempfile.mkdtemp(prefix="agentlm-sandbox-")
        self._control, theirs = socket.socketpair()
        self._events: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "agentlm_evals.sandbox.keeper", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            shutil.rmtree(self._stage, ignore_errors=True)
            raise
        finally:
            theirs.close()
        try:
            send(self._control, to_json(limits, layout, self._stage, cgroup=cgroup))
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            message = self._receive(deadline)
            if message is None:
                why = self._last_words() or f"it was not ready after {START_SECONDS:g} s"
                raise RequirementError(_cannot(why))
            if "error" in message:
                raise RequirementError(_cannot(str(message["error"])))
            self.caps = str(message.get("caps", self.caps))
            if "ready" in message:
                return

    def _last_words(self) -> str:
        self._keeper.kill()
        assert self._keeper.stderr is not None
        return self._keeper.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The next message, whose descriptors are left in it; None if there is none in time or the other end is gone."""
        ready, _, _ = select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        try:
            found = receive(self._control)
        except (OSError, ValueError):
            return None
        if found is None:
            return None
        message, descriptors = found
        message["descriptors"] = descriptors
        return message

    # --- programs ------------------------------------------------------------------------------------------------
    def start(
        self,
        argv: Sequence[str],
        descriptors: Sequence[int] = (),
        *,
        terminal: bool = False,
        cwd: str = "/",
        env: Mapping[str, str] = ENVIRONMENT,
    ) -> int:
        """Starts a program; returns its number. `descriptors` become 0, 1, 2, …; with a terminal they follow those three.

        Raises:
            SandboxGone: Nobody is there to start it.
        """
        self._numbers += 1
        order = {
            "op": "run",
            "id": self._numbers,
            "argv": list(argv),
            "cwd": cwd,
            "env": dict(env),
            "terminal": terminal,
        }
        self._send(order, tuple(descriptors))
        return self._numbers

    def _send(self, order: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            send(self._control, order, descriptors)
        except OSError as error:
            raise self._gone() from error

    def event(self, number: int, key: str, deadline: float) -> dict[str, Any] | None:
        """The message about a program that holds `key` (`status`, `terminal`); None if it does not come in time.

        Raises:
            SandboxGone: It can come no more.
        """
        while True:
            with self._lock:
                if key in self._events.get(number, {}):
                    return self._events[number]
            message = self._receive(deadline)
            if message is None:
                if time.monotonic() >= deadline:
                    return None
                raise self._gone()
            with self._lock:
                self._events.setdefault(int(message["id"]), {}).update(message)

    def _gone(self) -> SandboxGone:
        """Why nobody answers any more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(CLOSE_SECONDS)
        if self._keeper.returncode == OUT_OF_MEMORY:
            return MemoryCapReached(
                f"the sandbox took more than its {self.limits.memory >> 20} MiB of memory and was ended"
            )
        return SandboxGone(f"the sandbox has ended; its keeper's exit status is {self._keeper.returncode}")

    def kill(self, number: int, *, foreground: bool = False) -> None:
        """SIGKILL for a program's process group, or for whoever has its terminal."""
        self._send({"op": "kill", "id": number, "foreground": foreground})

    def kill_all(self) -> None:
        """SIGKILL for everything inside."""
        self._send({"op": "kill all", "id": 0})

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        output_limit: int = 1 << 20,
        cwd: str = "/",
        env: Mapping[str, str] = ENVIRONMENT,
    ) -> Finished:
        """Runs a program to its end. Once it has ended nobody waits for children that it left with its output.

        Raises:
            SandboxGone: The sandbox ended meanwhile.
        """
        deadline = time.monotonic() + timeout
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            ours, theirs = os.pipe()
            try:
                try:
                    number = self.start(argv, (source.fileno(), theirs, theirs), cwd=cwd, env=env)
                finally:
                    os.close(theirs)
                return self._collect(number, ours, deadline, output_limit)
            finally:
                os.close(ours)

    def _collect(self, number: int, pipe: int, deadline: float, limit: int) -> Finished:
        output = bytearray()
        seen, timed_out, status = 0, False, None
        is_open = True
        while True:
            wanted = [self._control] + ([pipe] if is_open else [])
            ready, _, _ = select.select(wanted, [], [], max(0.0, deadline - time.monotonic()))
            if pipe in ready:
                part = os.read(pipe, 65536)
                is_open = bool(part)
                seen += len(part)
                output += part[: max(0, limit - len(output))]
                continue
            if self._control in ready:
                found = self.event(number, "status", deadline)
                if found is not None:
                    status = int(found["status"])
                    break
            if time.monotonic() >= deadline:
                timed_out = True
                self.kill(number)
                self.event(number, "status", time.monotonic() + CLOSE_SECONDS)
                break
        while is_open and select.select([pipe], [], [], 0)[0]:
            part = os.read(pipe, 65536)
            is_open = bool(part) and seen < limit + (1 << 20)
            seen += len(part)
            output += part[: max(0, limit - len(output))]
        return Finished(status, bytes(output), seen > len(output), timed_out)

    # --- the end -------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Ends everything inside; harmless when it has ended already."""
        self._control.close()
        for stream in (self._keeper.stdin, self._keeper.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._keeper.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        shutil.rmtree(self._stage, ignore_errors=True)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cannot(why: str) -> str:
    return (
        f"no sandbox can be made here: {why}. It needs Linux with user namespaces and overlayfs in them (kernel 5.11 or "
        "newer; in a container: --privileged, or seccomp and AppArmor profiles that allow unshare and mount)"
    )
