"""Runs the linters of the test environment on what `docker/` has. Refuses to know what they should find."""

import os
import subprocess
import sys
from pathlib import Path

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = ("agentlm-7b.yml", "agentlm-13b.yml", "agentlm-70b.yml", "replicas.yml")
SECONDS = 60


def tool(name: str, *arguments: object, text: str | None = None) -> tuple[int, str]:
    """Exit status and output of a linter of the test environment, with nothing in the environment but where things are."""
    program = Path(sys.executable).parent / name
    ran = subprocess.run(
        [program, *map(str, arguments)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "NO_COLOR": "1"},
    )
    return ran.returncode, ran.stdout
