"""What a run is put to between its steps: the loss of conversations held out, and tasks. Refuses to know how they are run.

All ranks come here together; the first one tells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import RunLog, events
from agentlm.tuning.parallel import Ranks
from agentlm.tuning.rendering import Rendered
from agentlm.tuning.tasks import TaskRuns
from agentlm.tuning.trainer import Trainer

TASKS_NAME = "tasks"


@dataclass(slots=True)
class Evaluations:
    """The evaluations of one run."""

    config: TuneConfig
    directory: Path
    """The run's."""
    trainer: Trainer
    ranks: Ranks
    held_out: Rendered | None
    tags: frozenset[str]
    """Those whose losses are told."""
    tasks: TaskRuns | None
    """The first rank's, if there are any."""
    log: RunLog | None
    """The first rank's."""
    write: Callable[[Path], None]
    """Writes the weights as they are to a model's directory. All ranks."""
    interrupted: Callable[[], bool]

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return len(self.trainer.plan.steps)

    def losses(self, step: int) -> None:
        """Tells the loss of each source held out, and of each tag, if this step asks for it."""
        every = self.config.evaluation.every
        if self.held_out is None or not (step == self.steps or (every is not None and step % every == 0)):
            return
        by_source, by_tag = self.trainer.evaluate(self.held_out, self.config.data.length)
        if self.log is None:
            return
        names = [source.name for source in self.config.evaluation.sources]
        named = {names[index]: loss for index, loss in by_source.items()}
        of_tags = {tag: loss for tag, loss in by_tag.items() if tag in self.tags}
        self.log.event("evaluation", {"step": step, "loss": named, "tags": of_tags})
        self.log.say(f"step {step}: held out: " + ", ".join(f"{n} {v:.4f}" for n, v in named.items()))

    def run_tasks(self, step: int) -> None:
        """Puts the weights to the tasks, if this step asks for it and it was not done. What fails is told, never raised."""
        if not self.config.evaluation.runs_tasks(step, self.steps) or self.ranks.any(self._told(step)):
            return
        try:
            self.write(self.directory / TASKS_NAME / "model")
        except TuneError as error:
            self._tell({"step": step, "error": str(error)})
            return
        if self.tasks is None:
            self.ranks.wait_for_first(self._given_up)
            return
        try:
            told = self.tasks.run(step, self._tick)
        finally:
            self.ranks.done()
        if self.interrupted() and "error" in told:
            # It comes again when the run goes on.
            return
        self._tell(told)

    def _told(self, step: int) -> bool:
        if self.log is None:
            return False
        return any(line["event"] == TASKS_NAME and line["step"] == step for line in events(self.log.file))

    def _tick(self) -> bool:
        self.ranks.busy()
        return self._given_up()

    def _given_up(self) -> bool:
        return self.ranks.any(self.interrupted())

    def _tell(self, told: Mapping[str, Any]) -> None:
        if self.log is None:
            return
        self.log.event(TASKS_NAME, told)
        step, scores = told["step"], told.get("score", {})
        if scores:
            faults = told["faults"]
            self.log.say(
                f"step {step}: tasks: "
                + ", ".join(
                    f"{n} {v:.1f}{f' ({faults[n]} faults)' if n in faults else ''}" for n, v in scores.items()
                )
            )
        if "error" in told:
            self.log.say(f"step {step}: a task run failed, and training goes on: {told['error']}")
