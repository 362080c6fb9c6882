"""The commands that the guide shows do what it says; those that need the network or a browser are named here."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import Live, served

ROOT = Path(__file__).parents[3]
ELSEWHERE = {
    "agentlm data fetch agenttuning": "needs the network",
    "agentlm eval gsm8k --protocol agenttuning --port 30070": "needs what the former fetches",
    "agentlm data fetch gsm8k --mirror path/to/files": "test_commands.py has it with real files",
    "agentlm data fetch rewoo --mirror path/to/ReWOO --mirror path/to/AgentTuning --mirror path/to/grade-school-math": (
        "test_fetch.py has the checkouts"
    ),
    "agentlm eval view": "serves until it is stopped",
    "agentlm eval general --url http://127.0.0.1:30070": "wants a judge and a sandbox; the next one stands for it",
}


def shown() -> list[str]:
    text = (ROOT / "docs" / "guide-evaluation.md").read_text(encoding="utf-8")
    return re.findall(r"^ {4}(agentlm .*)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def mock() -> Iterator[Live]:
    with served("--backend", "mock") as live:
        yield live


@pytest.mark.slow
def test_the_guides_commands_in_their_order(mock: Live, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTLM_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    ran = 0
    for command in shown():
        if command in ELSEWHERE:
            continue
        command = command.replace("30070-30077", str(mock.port)).replace("30070", str(mock.port))
        command = command.replace("--model path/to/checkpoint", f"--port {mock.port}")
        given = shlex.split(command)[1:]
        if given[0] == "eval" and "gsm8k" in given and "doctor" not in given:
            # The bundled model's full answers are for a person's patience.
            given += ["--max-new-tokens", "8"]
        if "runs/*" in given:
            at = given.index("runs/*")
            given[at : at + 1] = [str(path) for path in sorted((tmp_path / "runs").iterdir())]
        done = subprocess.run(
            [sys.executable, "-m", "agentlm", *given],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        ran += 1
    assert ran >= 10
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "good.jsonl").read_text().count("\n") >= 5


def test_every_exception_is_still_in_the_guide() -> None:
    assert set(ELSEWHERE) <= set(shown())
