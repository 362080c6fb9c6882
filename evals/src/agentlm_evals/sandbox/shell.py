"""A login shell in a sandbox that lives as long as an episode: commands in, what the terminal showed out.

The shell has a terminal, as people's have. Commands and their ends travel beside it, on pipes that the command itself does
not see: no output can be taken for the end of a command, and an unbalanced quote is a syntax error, not a hang. Refuses to
know what commands mean.
"""

import contextlib
import os
import select
import termios
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from agentlm_evals.sandbox.box import Sandbox, SandboxGone

FLOOD = 4 << 20
"""Bytes of output after which a command is interrupted: nobody reads them, and endless output would take a processor."""
KEPT = 64 << 10
"""Bytes of output that are kept."""
PATIENCE = 1.0
"""Seconds that a command has to end after SIGKILL before its shell is given up."""
_SETTLE = 0.02
"""Seconds of silence after which a finished command's output is complete: it is written before the end is said."""

OPENING = "exec 250<&3 251>&4 3<&- 4>&-; set -m"
"""Where a driver takes commands from and says how they ended; a terminal has jobs."""
LOOP = r"""
shopt -s expand_aliases
while IFS= read -r -d '' -u 250 AGENTLM_COMMAND; do
  eval "$AGENTLM_COMMAND" 250<&- 251>&-
  builtin printf '%s\0' "$?" >&251
done
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command did."""

    text: str
    """What the terminal showed, standard error included, up to `KEPT` bytes."""
    status: int | None
    """Exit status; None if the command was stopped or took its shell with it."""
    timed_out: bool = False
    flooded: bool = False
    """It wrote more than `FLOOD` bytes and was stopped."""
    exited: bool = False
    """The shell is gone (`exit`, or it could not be stopped otherwise); the next command gets a new one."""


class Shell:
    """A persistent `bash --login`. Blocking; call it from a worker thread."""

    def __init__(self, sandbox: Sandbox, cwd: str = "/") -> None:
        self._sandbox = sandbox
        self._cwd = cwd
        self._number = 0
        self._terminal = self._commands = self._ends = -1
        self._modes: list[Any] = []

    def _open(self) -> None:
        theirs_in, self._commands = os.pipe()
        self._ends, theirs_out = os.pipe()
        try:
            argv = ["bash", "--login", "-c", OPENING + LOOP]
            self._number = self._sandbox.start(argv, (theirs_in, theirs_out), terminal=True, cwd=self._cwd)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        found = self._sandbox.event(self._number, "terminal", time.monotonic() + 10)
        if found is None or not found["descriptors"]:
            raise SandboxGone("the sandbox did not open a terminal")
        self._terminal = found["descriptors"][0]
        self._modes = termios.tcgetattr(self._terminal)

    def _reset(self) -> None:
        """A program that was stopped leaves the terminal as it had it."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._terminal, termios.TCSANOW, self._modes)

    def _kill(self, *, foreground: bool) -> None:
        """SIGKILL for what runs in the foreground, or for the shell itself."""
        self._sandbox.kill(self._number, foreground=foreground)

    def run(self, command: str, timeout: float) -> Shown:
        """Runs one command, of any number of lines, as if typed.

        Raises:
            SandboxGone: The sandbox ended meanwhile.
        """
        if self._terminal < 0:
            self._open()
        output = bytearray()
        self._read_terminal(output, settle=0)  # what jobs in the background wrote since
        self._reset()
        os.write(self._commands, command.replace("\0", "").encode(errors="replace") + b"\0")
        seen, timed_out, flooded = 0, False, False
        deadline = time.monotonic() + timeout
        while True:
            end = self._wait(output, deadline, FLOOD - seen)
            seen = len(output)
            if end is not None:
                break
            timed_out = time.monotonic() >= deadline
            flooded = not timed_out
            end = self._stop(output)
            break
        exited = end == b""
        status = None
        if exited:
            self.close()
        elif end is not None and not timed_out and not flooded:
            # A trap that a command left behind may write there, too: that is its own affair, and no fault.
            status = int(end) if end.isdigit() else None
        text = bytes(output[:KEPT]).decode(errors="replace")
        return Shown(text, status, timed_out, flooded, exited)

    def _wait(self, output: bytearray, deadline: float, most: int) -> bytes | None:
        """The command's status as digits, empty if the shell ended; None when time or `most` bytes are over."""
        begun = len(output)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or len(output) - begun > most:
                return None
            ready, _, _ = select.select([self._terminal, self._ends], [], [], left)
            if self._ends in ready:
                end = os.read(self._ends, 64).rstrip(b"\0")
                self._read_terminal(output)
                return end
            if self._terminal in ready and not self._read_once(output):
                # The terminal hung up: the shell is gone, or will be in a moment.
                select.select([self._ends], [], [], PATIENCE)
                return b""

    def _stop(self, output: bytearray) -> bytes | None:
        """SIGKILL for the foreground, then for the shell; returns as `_wait` does, never None.

        No Ctrl-C: a shell whose command dies of it ends too, as a script does.
        """
        self._kill(foreground=True)
        end = self._wait(output, time.monotonic() + PATIENCE, FLOOD)
        if end is None:
            self._kill(foreground=False)
            end = b""
        return end

    def _read_once(self, output: bytearray) -> bool:
        try:
            part = os.read(self._terminal, 65536)
        except OSError:  # EIO: nobody has the other end open
            return False
        output += part if len(output) <= FLOOD else b""
        return bool(part)

    def _read_terminal(self, output: bytearray, settle: float = _SETTLE) -> None:
        """What is there now, up to what is kept: a job in the background may go on for ever."""
        while len(output) <= KEPT and select.select([self._terminal], [], [], settle)[0]:
            if not self._read_once(output):
                return

    def close(self) -> None:
        """Hangs up; the shell and its jobs get SIGHUP. The sandbox stays."""
        for descriptor in (self._terminal, self._commands, self._ends):
            if descriptor >= 0:
                os.close(descriptor)
        self._terminal = self._commands = self._ends = -1

    def __enter__(self) -> "Shell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
