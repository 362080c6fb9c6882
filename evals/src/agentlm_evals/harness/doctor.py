"""Plays a task's gold answers, and one that does nothing, through its environment and scorer. Refuses to ask any model."""

import asyncio
from dataclasses import dataclass, field

from agentlm_evals.errors import EvalError, RequirementError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.harness.plan import RunSettings, TaskPlan, plan_task
from agentlm_evals.harness.run import first_error, run_episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.outcome import Outcome, Score
from agentlm_evals.task import Agent, Sample, Setting, Task

AT_ONCE = 4
"""Samples side by side: a scripted agent answers at once, so that more would only wait for a processor."""


@dataclass(slots=True)
class Finding:
    """What came of it."""

    gold: int = 0
    """Samples that have a gold path."""
    solved: int = 0
    without: int = 0
    """Samples whose data hold no solution."""
    nothing_solved: int = 0
    """Samples that an agent which does nothing got right."""
    not_played: str | None = None
    """Why an agent could not be tried, where the task needs what the doctor has not (a judge)."""
    wrong: list[str] = field(default_factory=list)
    """Gold paths that were not right, each with the reason."""

    @property
    def is_well(self) -> bool:
        """Whether every gold path is right."""
        played = self.gold + self.without > 0 or self.not_played is not None
        return self.solved == self.gold and played

    def line(self) -> str:
        """In one line."""
        parts = [f"gold {self.solved} of {self.gold} right", f"do-nothing {self.nothing_solved} right"]
        if self.without:
            parts.append(f"{self.without} without a gold path")
        if self.not_played:
            parts.append(f"not played: {self.not_played}")
        return ", ".join(parts)


async def play(plan: TaskPlan, sample: Sample, agent: Agent, environment: object) -> Score:
    """One episode with a scripted agent.

    Raises:
        RequirementError: The task lacks what the doctor has not.
    """
    judge = plan.task.scripted_judge()
    episode = Episode(
        sample=sample,
        setting=plan.setting,
        model=ScriptedModel(agent),
        decoding=plan.decoding,
        run_seed=plan.run_seed,
        environment=environment,
        judge=ScriptedModel(judge, "script") if judge else None,
    )
    score = (await run_episode(plan, episode)).score
    if score.details.get("lacks"):
        raise RequirementError(str(score.details["why"]))
    return score


async def examine(task: Task, setting: Setting, limit: int | None = None) -> Finding:
    """The first `limit` samples, each with its gold path and with one that does nothing.

    Samples are played side by side, as many as the task's environments carry, in the one environment that a run has, too.

    Raises:
        EvalError: The environment does not open, or the items cannot be read.
    """
    plan = plan_task(task, setting, RunSettings(limit=limit))
    finding = Finding()
    slots = asyncio.Semaphore(min(AT_ONCE, task.capacity(setting) or AT_ONCE))
    wrong: dict[str, str] = {}

    async def one(sample: Sample, environment: object) -> None:
        try:
            if finding.not_played is None:
                await _examine(finding, wrong, plan, sample, environment)
        except RequirementError as error:
            finding.not_played = str(error)
        finally:
            slots.release()

    try:
        async with task.environment(setting) as environment, asyncio.TaskGroup() as group:
            for sample in plan.samples:
                await slots.acquire()
                group.create_task(one(sample, environment))
    except* EvalError as errors:
        raise first_error(errors) from None
    finding.wrong = [wrong[sample.id] for sample in plan.samples if sample.id in wrong]
    return finding


async def _examine(
    finding: Finding, wrong: dict[str, str], plan: TaskPlan, sample: Sample, environment: object
) -> None:
    agent = plan.task.gold(sample, plan.setting.protocol.name)
    if agent is None:
        finding.without += 1
    else:
        score = await play(plan, sample, agent, environment)
        finding.gold += 1
        if score.outcome is Outcome.RIGHT:
            finding.solved += 1
        else:
            wrong[sample.id] = f"{sample.id}: {score.outcome.value} {dict(score.details)}"
    score = await play(plan, sample, plan.task.nothing(), environment)
    finding.nothing_solved += score.outcome is Outcome.RIGHT
