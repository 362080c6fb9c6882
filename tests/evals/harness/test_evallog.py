"""Logs for Inspect: every record is in one, in the order of the plan, and stale parts go."""

from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log

from agentlm_evals.harness import evallog
from agentlm_evals.harness.journal import Record
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.outcome import harness_fault, right
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.task import Setting, Source
from agentlm_evals.tasks import entry


def test_many_episodes_go_into_several_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evallog, "PART", 10)
    plan = plan_task(entry("gsm8k").load(), Setting(Source(), Protocol(AGENTLM)), RunSettings())
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "5"}]
    records = {key: Record(*key, "", right(), "5", turns) for key in plan.keys[:-1]}
    paths = evallog.write_logs(tmp_path, plan, records, {"name": "m"})
    assert [path.name for path in paths] == ["gsm8k-01.eval", "gsm8k-02.eval", "gsm8k-03.eval"]
    logs = [read_eval_log(str(path)) for path in paths]
    assert [log.status for log in logs] == ["success", "success", "cancelled"]
    found = [sample.id for log in logs for sample in log.samples or []]
    assert found == [sample.id for sample in plan.samples[:-1]]
    monkeypatch.setattr(evallog, "PART", 100)
    evallog.write_logs(tmp_path, plan, records, {"name": "m"})
    assert [path.name for path in tmp_path.iterdir()] == ["gsm8k.eval"]


def test_raw_prompts_are_shown_as_turns(tmp_path: Path) -> None:
    plan = plan_task(entry("gsm8k").load(), Setting(Source(), Protocol(AGENTLM)), RunSettings(limit=1))
    call = {"prompt": "Question: ?", "text": "5", "prompt_tokens": 3, "generated_tokens": 1}
    record = Record("own-01", 0, "", right(given="5"), {"a": 1}, [], [call])
    (path,) = evallog.write_logs(tmp_path, plan, {("own-01", 0): record}, {"name": "m"})
    (sample,) = read_eval_log(str(path)).samples or []
    assert [(message.role, message.text) for message in sample.messages] == [
        ("user", "Question: ?"),
        ("assistant", "5"),
    ]
    assert sample.output.completion == "5"


def test_a_fault_is_in_the_log_and_not_in_its_mean(tmp_path: Path) -> None:
    plan = plan_task(entry("gsm8k").load(), Setting(Source(), Protocol(AGENTLM)), RunSettings(limit=2))
    scores = (right(), harness_fault("gone"))
    records = {key: Record(*key, "", score) for key, score in zip(plan.keys, scores, strict=True)}
    (path,) = evallog.write_logs(tmp_path, plan, records, {"name": "m"})
    log = read_eval_log(str(path))
    assert log.results is not None
    assert log.results.scores[0].metrics["mean"].value == 1.0
    assert len(log.samples or []) == 2
