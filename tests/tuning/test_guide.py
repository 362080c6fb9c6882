"""docs/guide-tuning.md: its file is read and its commands run, on small data."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentlm.cli.tune import command
from agentlm.model import bundled
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import events
from tests.server.live import Live
from tests.tuning.runs import SHAPE, TRIES, sums, write_base, write_records

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide-tuning.md").read_text(encoding="utf-8")


COMMANDS = re.findall(r"^    ((?:agentlm|torchrun) .+)$", GUIDE, re.MULTILINE)


def the_command(beginning: str) -> list[str]:
    """The words of the one command of the guide that begins so."""
    (line,) = (line for line in COMMANDS if line.startswith(beginning))
    return shlex.split(line)


def small(configuration: str, steps: int = 2) -> str:
    """The small models have 512 positions, and two steps show as much as twenty."""
    return re.sub(
        r"steps = 20\b.*",
        f"steps = {steps}\nthreads = 1",
        re.sub(r"length = 1024\b", "length = 256", configuration),
    )


def configuration(output: str) -> str:
    """The file of the guide that writes there."""
    (found,) = re.findall(rf'```toml\n(output = "{output}".*?)```', GUIDE, re.DOTALL)
    return found


def write_inputs(at: Path) -> None:
    """What the guide's first run takes: the two files of records and its configuration, made small."""
    write_records(at / "agent-kept.jsonl", sums(20, "agent"))
    write_records(at / "general-kept.jsonl", sums(60, "general", turns=6))
    (at / "run.toml").write_text(small(configuration("runs/first")), encoding="utf-8")


def answer(model: str) -> dict[str, Any]:
    """What `agentlm serve` answers, served as the guide says but for the port."""
    words = [model if word == "runs/first/model" else word for word in the_command("agentlm serve")[2:]]
    live = Live(*(word if word != "30070" else "0" for word in words), "--threads", "1")
    try:
        asked = {"messages": [{"role": "user", "content": "1+1?"}], "max_tokens": 4, "temperature": 0}
        status, body = live.wait_ready().call("POST", "/v1/chat/completions", asked)
    finally:
        live.stop()
    assert status == 200, body
    return body


def test_the_guide_takes_a_newcomer_to_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "MODEL")
    write_inputs(tmp_path)
    write_records(tmp_path / "tries.jsonl", TRIES)
    preferences = small(configuration("runs/preferred"))
    (tmp_path / "preferences.toml").write_text(preferences, encoding="utf-8")
    left = {"agentlm serve", "agentlm tune evolve", "torchrun"}
    run_here = [line for line in COMMANDS if not line.startswith(tuple(left))]
    assert len(run_here) == len(COMMANDS) - len(left) == 8
    for line in run_here:
        words = shlex.split(line.replace("RECIPES", str(ROOT / "recipes")))
        done = CliRunner().invoke(command, words[2:], catch_exceptions=False)
        assert done.exit_code == 0, (line, done.output)
    for name in ("first/model", "merged", "preferred/model"):
        assert (tmp_path / "runs" / name / "model.safetensors").is_file()
    assert answer("runs/first/model")["usage"]["completion_tokens"] in range(1, 5)


@pytest.mark.slow
def test_the_guides_command_for_several_processes_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "MODEL")
    write_inputs(tmp_path)
    # Two are as many as eight here; elsewhere another's ranks may meet at the usual port.
    words = ["2" if word == "8" else word for word in the_command("torchrun")]
    ran = run_program(words[0], "--standalone", *words[1:])
    assert ran.returncode == 0, ran.stderr
    first = tmp_path / "runs" / "first"
    assert (first / "model" / "model.safetensors").is_file()
    # Each rank wrote its shards.
    assert {file.name.split("_")[2] for file in first.glob("checkpoints/*/__*.distcp")} == {"0", "1"}


@pytest.mark.slow
def test_the_guides_rejection_sampling_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").symlink_to(bundled.directory())
    write_inputs(tmp_path)
    words = [
        "1" if before == "--rounds" else word.replace("--count 200", "--count 6")
        for before, word in pairwise(["", *the_command("agentlm tune evolve")])
    ]
    ran = run_program(*words)
    assert ran.returncode == 0, ran.stderr
    (done,) = json.loads(ran.stdout)
    assert done["generated"] == 12
    assert 0 < done["kept"] <= 12
    assert answer("runs/evolved/round-1/run/model")["choices"][0]["message"]["content"]


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    """A program of this environment, found as a shell finds it there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Ranks of one thread each.
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, check=False)


def evaluated() -> str:
    (evaluation,) = re.findall(r"```toml\n(\[evaluation\].*?)```", GUIDE, re.DOTALL)
    return configuration("runs/first") + evaluation


def test_what_the_guide_says_of_evaluations_is_a_configuration():
    config = TuneConfig.from_dict(tomllib.loads(evaluated()))
    assert (config.evaluation.tasks, config.evaluation.worlds) == (("gsm8k",), ("household",))
    assert [step for step in range(41) if config.evaluation.runs_tasks(step, 41)] == [0, 20, 40]


def test_the_expected_table_is_the_published_one():
    published = pytest.importorskip("agentlm_evals.report.published")
    ours, base = (published.COLUMNS.index(name) for name in ("AgentLM-7B", "Llama-2-7B"))
    rows = {
        name: (float(a), float(b))
        for name, a, b in re.findall(
            r"^\| `?([a-z0-9-]+)`?(?:, Overall)? \| ([\d.]+) \| ([\d.]+) \| known", GUIDE, re.MULTILINE
        )
    }
    overall = {group.value: column for group, column in published.OVERALL.items()}
    expected = {
        task: published.SCORES[task] for task in published.GROUP_TASKS[next(iter(published.GROUP_TASKS))]
    }
    assert rows == {name: (column[ours], column[base]) for name, column in (expected | overall).items()}


@pytest.mark.slow
def test_what_the_guide_says_of_evaluations_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "MODEL", shape=replace(SHAPE, context=4096))
    for name, turns in (("agent-kept", 4), ("general-kept", 6), ("held-out", 4)):
        write_records(tmp_path / f"{name}.jsonl", sums(20, name, turns=turns))
    # Four steps: the loss in the middle, tasks before the first step and after the last.
    shorter = small(evaluated(), steps=4)
    shorter = shorter.replace("every = 10   ", "every = 2    ")
    (tmp_path / "run.toml").write_text(shorter, encoding="utf-8")
    done = CliRunner().invoke(command, ["run.toml", "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    logged = events(tmp_path / "runs" / "first" / "log.jsonl")
    losses = [(line["step"], line["loss"].keys()) for line in logged if line["event"] == "evaluation"]
    assert losses == [(2, {"held-out"}), (4, {"held-out"})]
    tasks = [line for line in logged if line["event"] == "tasks"]
    assert [line["step"] for line in tasks] == [0, 4]
    for line in tasks:
        assert "error" not in line, line
        assert (line["samples"], line["faults"]) == ({"gsm8k": 2, "household": 2}, {})
