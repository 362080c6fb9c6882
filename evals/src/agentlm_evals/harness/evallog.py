"""A task's episodes as an Inspect `.eval` log, for its viewer and its tools. Refuses to run anything.

The journal stays the truth: the log is written from it, whole or not at all.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import Score

from agentlm_evals import __version__
from agentlm_evals.harness.journal import Key, Record
from agentlm_evals.harness.plan import TaskPlan
from agentlm_evals.outcome import Outcome

_EPOCH = "2026-01-01T00:00:00+00:00"
"""Episodes keep no dates, so that two runs with the same results have the same log."""


PART = 1000
"""Episodes in one log, all of which are in memory while it is written (2 ms of CPU each)."""


def write_logs(
    folder: Path, plan: TaskPlan, records: Mapping[Key, Record], model: Mapping[str, Any]
) -> list[Path]:
    """Writes `TASK.eval`, or `TASK-01.eval` and on where there are many, of the records that are there."""
    name, keys = plan.task.name, plan.keys
    paths = []
    for at in range(0, len(keys), PART):
        path = folder / (f"{name}.eval" if len(keys) <= PART else f"{name}-{at // PART + 1:02d}.eval")
        _write_log(path, plan, keys[at : at + PART], records, model)
        paths.append(path)
    # What an earlier, smaller or larger plan left.
    for path in folder.glob("*.eval"):
        if path not in paths:
            path.unlink()
    return paths


def _write_log(
    path: Path, plan: TaskPlan, keys: Sequence[Key], records: Mapping[Key, Record], model: Mapping[str, Any]
) -> None:
    kept = [records[key] for key in keys if key in records]
    targets = {sample.id: sample.target for sample in plan.samples}
    name = str(model["name"])
    status = "success" if len(kept) == len(keys) else "cancelled"
    # A fault says nothing about the model. What the task's number really is (a macro average, pass@k) the report says.
    values = [record.score.value for record in kept if record.score.outcome is not Outcome.HARNESS_FAULT]
    mean = sum(values) / len(values) if values else 0.0
    usage = _usage(kept)
    log = EvalLog(
        status=status,  # type: ignore[arg-type]  # one of its literals
        eval=EvalSpec(
            created=_EPOCH,
            task=plan.task.name,
            dataset=EvalDataset(
                name=plan.task.name,
                samples=len(plan.samples),
                sample_ids=[sample.id for sample in plan.samples],
            ),
            model=name,
            config=EvalConfig(epochs=plan.epochs),
            task_args={"protocol": plan.setting.protocol.name, **plan.identity(model)["options"]},
            metadata=plan.identity(model),
            packages={"agentlm_evals": __version__},
        ),
        plan=EvalPlan(),
        results=EvalResults(
            total_samples=len(keys),
            completed_samples=len(kept),
            scores=[
                EvalScore(
                    name=plan.task.metric.name,
                    scorer=plan.task.metric.name,
                    metrics={"mean": EvalMetric(name="mean", value=mean)},
                )
            ],
        ),
        stats=EvalStats(model_usage={name: usage}),
        samples=[_sample(record, plan, targets, name) for record in kept],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inspect tells the format by the name's end.
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    write_eval_log(log, str(temporary))
    temporary.replace(path)


def _usage(records: list[Record]) -> ModelUsage:
    calls = [call for record in records for call in record.calls]
    read, written = (
        sum(int(call["prompt_tokens"]) for call in calls),
        sum(int(call["generated_tokens"]) for call in calls),
    )
    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _sample(record: Record, plan: TaskPlan, targets: Mapping[str, Any], model: str) -> EvalSample:
    messages = [_message(message) for message in record.messages]
    if not messages:
        # A task that works with raw prompts keeps no dialogue: its calls are shown in its place.
        for call in record.calls:
            messages.append(ChatMessageUser(content=str(call.get("prompt", ""))))
            messages.append(ChatMessageAssistant(content=str(call["text"]), model=model))
    last = str(record.calls[-1]["text"]) if record.calls else ""
    outcome = record.score.outcome
    return EvalSample(
        id=record.sample,
        epoch=record.epoch + 1,
        input=str(next((message.text for message in reversed(messages) if message.role == "user"), "")),
        target=str(targets.get(record.sample, "")),
        messages=messages,
        output=ModelOutput.from_content(model, last),
        scores={
            plan.task.metric.name: Score(
                value=record.score.value,
                answer=str(record.answer)[:2000] if record.answer is not None else None,
                explanation=outcome.value,
                metadata={"outcome": outcome.value, **record.score.details},
            )
        },
        metadata={"category": record.category, **record.notes},
        model_usage={model: _usage([record])},
        total_time=record.seconds,
    )


def _message(message: Mapping[str, Any]) -> ChatMessage:
    content = str(message["content"])
    if message["role"] == "system":
        return ChatMessageSystem(content=content)
    if message["role"] == "user":
        return ChatMessageUser(content=content)
    return ChatMessageAssistant(content=content)
