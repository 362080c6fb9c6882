"""Runs a program for as long as its owner lives, however the owner ends. Refuses to know what the program is.

The owner holds the other end of standard input; when that closes (closed on purpose, or by the kernel after kill -9), the
program gets SIGTERM, SIGKILL after a grace, and the folder that was named is removed. Standard library only:
`python -m agentlm_evals.sandbox.guardian REMOVED_FOLDER GRACE_SECONDS PROGRAM ARGUMENT…`.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys

from agentlm_evals.sandbox.namespaces import die_with_parent


def main() -> int:
    """Returns the program's exit status, or 0 when it was ended for its owner."""
    folder, grace, *command = sys.argv[1:]
    # The owner's terminal sends Ctrl-C to everybody; only the owner decides what that means.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_in_child)
        handle = os.pidfd_open(child.pid)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.register(0, select.POLLIN | select.POLLHUP)
        poller.poll()
        if child.poll() is not None:
            return child.returncode & 0xFF
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(float(grace))
        child.kill()
        child.wait()
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_child() -> None:
    die_with_parent()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
