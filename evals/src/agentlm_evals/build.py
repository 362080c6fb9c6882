"""Trajectories that scored well become training data, as AgentInstruct was made. Refuses to know trainers.

Every episode of a run with a value of at least the threshold is one conversation record; the model's own turns are to
be trained on, worked examples and acknowledgements are not.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm_evals.errors import ConfigError, RunError
from agentlm_evals.harness import journal
from agentlm_evals.harness.journal import Record
from agentlm_evals.outcome import Outcome
from agentlm_evals.tasks import entry

THRESHOLD = 1.0
"""The paper keeps trajectories of full reward; Mind2Web's from 2/3 on."""
THRESHOLDS = {"mind2web": 2 / 3}


@dataclass(slots=True)
class Count:
    """What was looked at and what was kept."""

    episodes: int = 0
    kept: int = 0
    faults: int = 0
    """Episodes that ended with a harness fault, which say nothing about what the model did."""
    repeated: int = 0
    """Further episodes of a sample that already gave one."""


def conversations(
    directory: Path, threshold: float | None, tasks: tuple[str, ...], count: Count, *, every: bool = False
) -> Iterator[dict[str, Any]]:
    """The records of a run's good episodes, in a fixed order.

    Args:
        directory: Of the run.
        threshold: The least reward, 0 to 1; a rating's is its tenth. None: the paper's for each task.
        tasks: Only these; empty: all.
        count: Is counted up.
        every: Keep all good episodes of a sample, not only the first.

    Raises:
        RunError: The directory holds no run.
        ConfigError: The run has no task of a name that was given.
    """
    path = directory / "run.json"
    if not path.is_file():
        raise RunError(f"{directory} holds no run (there is no run.json)")
    run = json.loads(path.read_text())
    there = list(run["tasks"])
    if unknown := [task for task in tasks if task not in there]:
        raise ConfigError(f"{directory} has no task {', '.join(unknown)}; it has {', '.join(there)}")
    for task in tasks or there:
        least = THRESHOLDS.get(task, THRESHOLD) if threshold is None else threshold
        most = entry(task).load().metric.most
        identity = json.loads((directory / task / "task.json").read_text())
        records = journal.read(directory / task / "episodes.jsonl")
        seen: set[str] = set()
        for key in sorted(records):
            record = records[key]
            count.episodes += 1
            if record.score.outcome is Outcome.HARNESS_FAULT:
                count.faults += 1
                continue
            reward = record.score.value / most
            if reward < least or not _is_usable(record):
                continue
            if record.sample in seen and not every:
                count.repeated += 1
                continue
            seen.add(record.sample)
            count.kept += 1
            yield _conversation(record, task, identity, reward)


def _is_usable(record: Record) -> bool:
    """Whether there is anything in it that the model said: raw prompts have no turns."""
    return any(message["role"] == "assistant" and message.get("loss", True) for message in record.messages)


def _conversation(record: Record, task: str, identity: Mapping[str, Any], reward: float) -> dict[str, Any]:
    model = str(identity["model"].get("name"))
    return {
        "id": f"{task}-{record.sample}-{record.epoch}",
        "source": f"agentlm-eval/{model}",
        "task": task,
        "item": f"{task}/{record.sample}",
        "reward": reward,
        "tags": [
            f"protocol:{identity['protocol']}",
            *([f"category:{record.category}"] if record.category else []),
        ],
        "messages": record.messages,
        "tools": None,
        "meta": {"model": model, "weights": identity["model"].get("weights"), "data": identity["data"]},
    }
