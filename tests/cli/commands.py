"""Runs the command line as a person does: in a process of its own. Refuses to know the commands."""

import os
import subprocess
import sys

SECONDS = 60


def agentlm(*arguments: object, stdin: str | bytes = "", **options) -> subprocess.CompletedProcess:
    """What `agentlm` with these arguments wrote and how it ended."""
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    ran = subprocess.run(
        [sys.executable, "-m", "agentlm", *map(str, arguments)],
        input=data,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        env={**os.environ, **options.pop("env", {})},
        **options,
    )
    ran.stdout = (ran.stdout or b"").decode()
    ran.stderr = ran.stderr.decode()
    return ran
