"""docs/guide-tuning.md: its file is read and its commands run, on small data."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentlm.cli.tune import command
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import events
from tests.tuning.runs import SHAPE, sums, write_base, write_records

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide-tuning.md").read_text(encoding="utf-8")


def test_the_guide_takes_a_newcomer_to_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "MODEL")
    write_records(tmp_path / "agent-kept.jsonl", sums(20, "agent"))
    write_records(tmp_path / "general-kept.jsonl", sums(60, "general", turns=6))
    (configuration,) = re.findall(r"```toml\n(output = .*?)```", GUIDE, re.DOTALL)
    # The small model has 512 positions, and two steps show as much as twenty.
    small = configuration.replace("length = 1024", "length = 256").replace(
        "steps = 20", "steps = 2\nthreads = 1"
    )
    (tmp_path / "run.toml").write_text(small, encoding="utf-8")
    commands = re.findall(r"^    agentlm (.+)$", GUIDE, re.MULTILINE)
    assert len(commands) == 8
    for line in commands:
        words = line.replace("RECIPES", str(ROOT / "recipes")).split()
        if words[0] == "serve":
            continue
        done = CliRunner().invoke(command, words[1:], catch_exceptions=False)
        assert done.exit_code == 0, (line, done.output)
    assert (tmp_path / "runs" / "first" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "merged" / "model.safetensors").is_file()


def evaluated() -> str:
    (base,) = re.findall(r"```toml\n(output = .*?)```", GUIDE, re.DOTALL)
    (evaluation,) = re.findall(r"```toml\n(\[evaluation\].*?)```", GUIDE, re.DOTALL)
    return base + evaluation


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
    # Four steps show as much as twenty: the loss in the middle, tasks before the first step and after the last.
    small = (
        evaluated().replace("length = 1024", "length = 256").replace("steps = 20", "steps = 4\nthreads = 1")
    )
    small = small.replace("every = 10   ", "every = 2    ")
    (tmp_path / "run.toml").write_text(small, encoding="utf-8")
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
