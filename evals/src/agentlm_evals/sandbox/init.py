"""Process 1 of a sandbox: starts what it is asked to, reaps everything, ends with its control socket. Refuses to know why.

Nobody inside can trace it. Standard library only, all of it imported before the root changed.
"""

import contextlib
import fcntl
import os
import pty
import resource
import select
import signal
import socket
import termios
from typing import Any

from agentlm_evals.sandbox import namespaces
from agentlm_evals.sandbox.limits import Limits
from agentlm_evals.sandbox.wire import receive, send

CANNOT_EXECUTE = 127


def _open_terminal() -> tuple[int, int]:
    """Both ends of a terminal that shows output as it is written, for a model and not for a screen, and no input."""
    ours, theirs = pty.openpty()
    modes = termios.tcgetattr(theirs)
    modes[1] &= ~termios.ONLCR
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    return ours, theirs


class _Init:
    """The programs that were asked for and still run."""

    def __init__(self, control: socket.socket, limits: Limits, *, capabilities: bool) -> None:
        self.control = control
        self.limits = limits
        self.capabilities = capabilities
        self.running: dict[int, int] = {}  # process id -> the order's number
        self.terminals: dict[int, int] = {}  # the order's number -> our end of its terminal

    def order(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Carries out one message; its descriptors are ours to close."""
        try:
            number = int(message["id"])
            if message["op"] == "run":
                self._run(number, message, descriptors)
            elif message["op"] == "kill":
                self._kill(number, foreground=bool(message["foreground"]))
            elif message["op"] == "kill all":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _run(self, number: int, message: dict[str, Any], descriptors: list[int]) -> None:
        terminal = message["terminal"]
        ours, theirs = _open_terminal() if terminal else (-1, -1)
        try:
            child = os.fork()
        except OSError as error:
            send(self.control, {"id": number, "status": CANNOT_EXECUTE, "error": str(error)})
            return
        if child == 0:
            self._become(message, descriptors, theirs)
        self.running[child] = number
        if terminal:
            os.close(theirs)
            self.terminals[number] = ours
            send(self.control, {"id": number, "terminal": True}, (ours,))

    def _become(self, message: dict[str, Any], descriptors: list[int], terminal: int) -> None:
        """In the child: never returns."""
        try:
            os.setsid()
            if terminal >= 0:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            wanted = [terminal] * 3 + descriptors if terminal >= 0 else descriptors
            # Out of the way first, so that no target is a source of a later copy.
            spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in wanted]
            os.closerange(0, 64)
            for target, source in enumerate(spare):
                os.dup2(source, target, inheritable=True)
            os.closerange(64, 256)
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._bound()
            namespaces.drop_capabilities(namespaces.KEPT_CAPABILITIES if self.capabilities else ())
            if not self.capabilities:
                namespaces.no_new_privileges()
            os.chdir(message["cwd"])
            os.umask(0o022)
            os.execvpe(message["argv"][0], message["argv"], message["env"])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(2, f"{message['argv'][0]}: {error.strerror}\n".encode())
        finally:
            os._exit(CANNOT_EXECUTE)

    def _bound(self) -> None:
        """Limits of one process, and of one user where the namespace's maker could not set them for all."""
        caps = self.limits
        for name, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, caps.disk),
            (resource.RLIMIT_NOFILE, caps.open_files),
            (resource.RLIMIT_CPU, caps.cpu_seconds),
            (resource.RLIMIT_NPROC, caps.processes),
        ):
            _, hard = resource.getrlimit(name)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(name, (least, least))

    def _kill(self, number: int, *, foreground: bool) -> None:
        """The order's whole process group, or whoever has its terminal."""
        with contextlib.suppress(OSError):
            if foreground and number in self.terminals:
                os.killpg(os.tcgetpgrp(self.terminals[number]), signal.SIGKILL)
                return
        for pid, known in self.running.items():
            if known == number:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Every child that ended, the sandbox's orphans among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self.running.pop(pid, None)
            if number is None:
                continue
            if number in self.terminals:
                os.close(self.terminals.pop(number))
            send(self.control, {"id": number, "status": os.waitstatus_to_exitcode(status)})


def serve(control: socket.socket, limits: Limits, *, capabilities: bool) -> int:
    """Carries out orders until the control socket closes; returns the exit status of process 1."""
    init = _Init(control, limits, capabilities=capabilities)
    wake, wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakened)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control.fileno(), wake], [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        init.reap()
        if control.fileno() in ready:
            order = receive(control)
            if order is None:
                return 0
            init.order(*order)
