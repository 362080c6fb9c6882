"""The same as a sandbox and its shell, in a Docker container, for who wants the official images. Chosen by flag only.

The container's first program reads from us: when we end, however we end, it does, and the container with it. There is no
terminal: programs see pipes. Refuses to know what runs inside.
"""

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Sequence

from agentlm_evals.errors import RequirementError
from agentlm_evals.sandbox.box import CLOSE_SECONDS, Finished, SandboxGone
from agentlm_evals.sandbox.limits import Limits
from agentlm_evals.sandbox.shell import LOOP, Shell

START_SECONDS = 120.0
_FIRST = 'while read -r line; do echo "$line"; done'
"""Process 1 of the container: reaps orphans, as a shell does, and ends with its input."""
_OPENING = "exec 250<&0 251>&2 0</dev/null 2>&1; printf '%s\\0' $$ >&251"


def why_not() -> str:
    """Why no container can be run here; empty if one can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer"
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2] or "docker version failed"


class Container:
    """One container without a network. Use `close`.

    Raises:
        RequirementError: It did not start; the message is Docker's.
    """

    def __init__(self, image: str, limits: Limits) -> None:
        self.name = f"agentlm-{os.getpid()}-{secrets.token_hex(4)}"
        self.caps = "docker"
        command = [
            *(
                "docker",
                "run",
                "--rm",
                "-i",
                "--name",
                self.name,
                "--network",
                "none",
                "--hostname",
                "sandbox",
            ),
            *(
                "--memory",
                str(limits.memory),
                "--memory-swap",
                str(limits.memory),
                "--cpus",
                str(limits.cpus),
            ),
            *(
                "--pids-limit",
                str(limits.processes),
                "--ulimit",
                f"nofile={limits.open_files}",
                "--workdir",
                "/",
            ),
            *(
                "--ulimit",
                f"fsize={limits.disk}",
                "--ulimit",
                f"cpu={limits.cpu_seconds}",
                "--ulimit",
                "core=0",
            ),
            *(image, "bash", "-c", _FIRST),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        """The first program gives back what it is given."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"ready\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        if ready and self._process.stdout.readline() == b"ready\n":
            return
        self._process.kill()
        assert self._process.stderr is not None
        why = self._process.stderr.read().decode(errors="replace").strip()
        raise RequirementError(
            f"the container did not start: {why or f'nothing came in {START_SECONDS:g} s'}"
        )

    def exec(self, argv: Sequence[str]) -> list[str]:
        """The command that runs a program in it, its input and outputs being the command's."""
        return ["docker", "exec", "-i", self.name, *argv]

    def run(self, argv: Sequence[str], *, timeout: float, output_limit: int = 1 << 20) -> Finished:
        """Runs a program to its end.

        Raises:
            SandboxGone: The container has ended.
        """
        self._check()
        process = subprocess.Popen(
            self.exec(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        deadline = time.monotonic() + timeout
        output, seen, timed_out = bytearray(), 0, False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                timed_out = True
                self.kill("-1")  # everything but the container's first program
                process.kill()
                break
            if select.select([process.stdout], [], [], left)[0]:
                part = os.read(process.stdout.fileno(), 65536)
                if not part:
                    break
                seen += len(part)
                output += part[: max(0, output_limit - len(output))]
        process.stdout.close()
        status = process.wait()
        self._check()
        return Finished(None if timed_out else status, bytes(output), seen > len(output), timed_out)

    def kill(self, *who: str) -> None:
        """SIGKILL for a process inside, or for all (`-1`)."""
        command = ["docker", "exec", self.name, "kill", "-KILL", "--", *who]
        subprocess.run(command, capture_output=True, timeout=CLOSE_SECONDS)

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise SandboxGone(f"the container has ended; its exit status is {self._process.returncode}")

    def close(self) -> None:
        """Ends it; Docker removes it."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        subprocess.run(["docker", "kill", self.name], capture_output=True, timeout=60)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class ContainerShell(Shell):
    """A persistent login shell in a container: commands in on standard input, ends out on standard error."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = ""
        self._commands = self._terminal = self._ends = -1

    def _open(self) -> None:
        process = subprocess.Popen(
            self._container.exec(["bash", "--login", "-c", _OPENING + LOOP]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._commands, self._terminal, self._ends = (
            os.dup(stream.fileno()) for stream in (process.stdin, process.stdout, process.stderr)
        )
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        said = b""
        while not said.endswith(b"\0"):
            ready, _, _ = select.select([self._ends], [], [], CLOSE_SECONDS)
            part = os.read(self._ends, 64) if ready else b""
            if not part:
                raise SandboxGone(f"the container opened no shell: {said.decode(errors='replace').strip()}")
            said += part
        self._pid = said.rstrip(b"\0").rpartition(b"\n")[2].decode()

    def _reset(self) -> None:
        """There is no terminal to set right."""

    def _kill(self, *, foreground: bool) -> None:
        if foreground:
            command = [
                "docker",
                "exec",
                self._container.name,
                "sh",
                "-c",
                'kill -KILL $(cat "/proc/$1/task/$1/children")',
            ]
            subprocess.run([*command, "--", self._pid], capture_output=True, timeout=CLOSE_SECONDS)
        else:
            self._container.kill(self._pid)

    def close(self) -> None:
        """Ends the shell; the container stays."""
        super().close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
