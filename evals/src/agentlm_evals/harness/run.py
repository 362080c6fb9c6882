"""Runs episodes: many at once, each to its record. Refuses to know which server answers and how results are shown.

Inspect's own loop is not used here: measured with a model that only waits, it spends 13 ms of its one thread on an
episode, which keeps no more than 25 requests of a third of a second going; and a run that is killed has to be told by hand
where to go on. Its log format and its viewer are used (`evallog.py`).
"""

import asyncio
import json
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm_evals.errors import (
    EpisodeEnd,
    EvalError,
    HarnessFault,
    LimitReached,
    ModelError,
    RequirementError,
    RunError,
    UnsupportedError,
)
from agentlm_evals.harness import journal
from agentlm_evals.harness.episode import Call, Episode
from agentlm_evals.harness.journal import Journal, Record
from agentlm_evals.harness.plan import RunSettings, TaskPlan, check_identity, write_run
from agentlm_evals.harness.progress import Progress
from agentlm_evals.model import Decoding, Generation, Limits, Model, Prompt
from agentlm_evals.outcome import Outcome, Score, format_or_limit, harness_fault
from agentlm_evals.task import Sample

GIVE_UP_AFTER = 20
"""Episodes in a row without an answer from any server, after which the run stops: the servers are gone."""
DEFAULT_CONCURRENCY = 64
SHOW_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """How a run went."""

    finished: int
    planned: int
    faults: int
    stopped: str | None
    """Why it stopped before its end, if it did."""


class _Metered:
    """The model, with what it is doing counted."""

    def __init__(self, model: Model, progress: Progress) -> None:
        self._model = model
        self._progress = progress

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def origin(self) -> str:
        return self._model.origin

    @property
    def limits(self) -> Limits:
        return self._model.limits

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        self._progress.requests_running += 1
        try:
            generation = await self._model.generate(prompt, decoding, seed)
        finally:
            self._progress.requests_running -= 1
        self._progress.tokens += generation.generated_tokens
        return generation

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        self._progress.requests_running += 1
        try:
            return await self._model.score(prompt, continuations, window)
        finally:
            self._progress.requests_running -= 1

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return await self._model.count_prompt_tokens(prompt)


async def run_episode(plan: TaskPlan, episode: Episode) -> Record:
    """One episode to its record. Whatever is not the model's doing becomes a harness fault; nothing is raised but refusals.

    Raises:
        UnsupportedError: The server lacks an ability: no episode of the task can run.
        ModelError: No server answers.
    """
    task, sample, protocol = plan.task, episode.sample, episode.protocol
    begun = time.monotonic()
    answer: Any = None
    try:
        async with episode.clock.running():
            answer = await task.solve(episode)
        # What cannot be stored cannot be scored again either: that is the task's fault, and known now.
        json.dumps(answer)
        score = task.score(sample, answer, protocol)
    except EpisodeEnd as end:
        kind = "limit" if isinstance(end, LimitReached) else "format"
        score = format_or_limit(str(end), task.metric.least, kind=kind)
    except (UnsupportedError, ModelError):
        raise
    except RequirementError as error:
        # No episode of the task can run: who runs many stops at the first.
        score = harness_fault(str(error), lacks=True)
    except HarnessFault as fault:
        score = harness_fault(f"{type(fault).__name__}: {fault}")
    except TimeoutError as error:
        if episode.clock.is_over:
            why = f"the episode's {episode.budget.seconds:g} seconds are over"
            score = format_or_limit(why, task.metric.least, kind="limit")
        else:
            score = harness_fault(f"TimeoutError: {error}", traceback=traceback.format_exc())
    except Exception as error:
        # The border to other people's code: whatever it raises, the episode says nothing about the model.
        score = harness_fault(f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
    return _record(episode, answer, score, time.monotonic() - begun)


def _record(episode: Episode, answer: Any, score: Score, seconds: float) -> Record:
    return Record(
        sample=episode.sample.id,
        epoch=episode.epoch,
        category=episode.sample.category,
        score=score,
        answer=answer if score.outcome is not Outcome.HARNESS_FAULT else None,
        messages=[message.to_json() for message in episode.messages],
        calls=[_call(call) for call in episode.calls],
        notes=episode.notes,
        seconds=seconds,
    )


def _call(call: Call) -> dict[str, Any]:
    """Raw prompts are kept whole; of messages the number, for they are in the trajectory."""
    prompt: dict[str, Any] = (
        {"prompt": call.prompt} if isinstance(call.prompt, str) else {"messages": len(call.prompt)}
    )
    generation = call.generation
    return prompt | {
        "seed": call.seed,
        "temperature": call.decoding.temperature,
        "max_new_tokens": call.decoding.max_new_tokens,
        "stop": list(call.decoding.stop),
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "prompt_tokens": generation.prompt_tokens,
        "generated_tokens": generation.generated_tokens,
        "seconds": round(call.seconds, 4),
    }


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error itself, of groups within groups."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


class Runner:
    """A run: its plans, its model, its directory."""

    def __init__(
        self,
        plans: Sequence[TaskPlan],
        model: Mapping[str, Model],
        settings: RunSettings,
        directory: Path,
        about: Mapping[str, Any],
        *,
        judge: Model | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        shown: bool | None = None,
    ) -> None:
        """`model` gives each task's model by the task's name; `about` says for the record which model it is."""
        self.plans = list(plans)
        self._model = model
        self._settings = settings
        self._directory = directory
        self._about = about
        self._judge = judge
        self._slots = asyncio.Semaphore(settings.concurrency or concurrency)
        self._shown = shown
        self._draining = asyncio.Event()
        self._in_vain = 0
        self._main: asyncio.Task[Any] | None = None
        self._given_up = False
        self._stopped: str | None = None
        self._progress: Progress

    async def run(self) -> Result:
        """Runs what is not finished yet; returns when all is, or when it was asked to stop.

        Raises:
            RunError: The directory holds another run's episodes, or another process works in it.
            RequirementError: A task needs an ability that the server lacks.
            ModelError: The servers are gone.
        """
        self._main = asyncio.current_task()
        with journal.locked(self._directory):
            done: dict[str, dict[journal.Key, Record]] = {}
            for plan in self.plans:
                folder = self._directory / plan.task.name
                check_identity(folder, plan.identity(self._about))
                planned = set(plan.keys)
                records = journal.read(folder / "episodes.jsonl")
                done[plan.task.name] = {
                    key: record
                    for key, record in records.items()
                    # A fault says nothing yet: the episode is run again.
                    if key in planned and record.score.outcome is not Outcome.HARNESS_FAULT
                }
            write_run(self._directory, self.plans, self._settings, self._about)
            count = sum(len(plan.keys) for plan in self.plans)
            self._progress = Progress(count, sum(map(len, done.values())), shown=self._shown)
            for records in done.values():
                for record in records.values():
                    self._progress.finished_before(record.score.outcome, record.score.value)
            with suppress(NotImplementedError, ValueError, RuntimeError):
                # Not in a thread, and not everywhere: then Ctrl-C ends the run at once, which a journal bears.
                loop = asyncio.get_running_loop()
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, self.drain)
            try:
                showing = asyncio.create_task(self._show())
                async with asyncio.TaskGroup() as group:
                    for plan in self.plans:
                        group.create_task(self._run_task(plan, done[plan.task.name]))
            except* EvalError as errors:
                raise first_error(errors) from None
            except* asyncio.CancelledError:
                if not self._given_up:
                    raise
                raise RunError("stopped at once; run the same command again to go on") from None
            finally:
                showing.cancel()
                self._progress.close()
            outcomes = self._progress.outcomes
            return Result(outcomes.total(), count, outcomes[Outcome.HARNESS_FAULT], self._stopped)

    async def _show(self) -> None:
        """Keeps the line alive while long episodes run."""
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._progress.show(redraw=True)

    def drain(self) -> None:
        """No episode begins any more; those that run are finished and stored. Asked again, they are given up."""
        if self._draining.is_set() and self._main is not None:
            self._given_up = True
            self._main.cancel()
        self._stopped = "stopped; run the same command again to go on"
        self._draining.set()

    async def _run_task(self, plan: TaskPlan, done: Mapping[journal.Key, Record]) -> None:
        samples = {sample.id: sample for sample in plan.samples}
        left = [key for key in plan.keys if key not in done]
        if not left:
            return
        capacity = asyncio.Semaphore(plan.task.capacity(plan.setting) or len(left))
        model = _Metered(self._model[plan.task.name], self._progress)
        async with AsyncExitStack() as stack:
            store = Journal(self._directory / plan.task.name / "episodes.jsonl")
            stack.callback(store.close)
            environment = await stack.enter_async_context(plan.task.environment(plan.setting))
            async with asyncio.TaskGroup() as group:
                for name, epoch in left:
                    await capacity.acquire()
                    await self._slots.acquire()
                    if self._draining.is_set():
                        self._slots.release()
                        break
                    work = self._episode(plan, samples[name], epoch, model, environment, store, capacity)
                    group.create_task(work)

    async def _episode(
        self,
        plan: TaskPlan,
        sample: Sample,
        epoch: int,
        model: Model,
        environment: Any,
        store: Journal,
        capacity: asyncio.Semaphore,
    ) -> None:
        self._progress.episodes_running += 1
        try:
            for _ in range(1 + self._settings.fault_retries):
                episode = Episode(
                    sample=sample,
                    setting=plan.setting,
                    model=model,
                    decoding=plan.decoding,
                    run_seed=plan.run_seed,
                    epoch=epoch,
                    budget=self._settings.budget,
                    overridden=self._settings.overridden,
                    environment=environment,
                    judge=self._judge,
                )
                try:
                    record = await run_episode(plan, episode)
                except UnsupportedError as error:
                    raise RequirementError(
                        f"task {plan.task.name} cannot run against this server: {error}"
                    ) from error
                except ModelError as error:
                    self._in_vain += 1
                    if self._in_vain >= GIVE_UP_AFTER:
                        raise
                    record = _record(episode, None, harness_fault(f"ModelError: {error}"), 0.0)
                else:
                    self._in_vain = 0
                    if record.score.details.get("lacks"):
                        raise RequirementError(str(record.score.details["why"]))
                if record.score.outcome is not Outcome.HARNESS_FAULT or self._draining.is_set():
                    break
            await store.write(record)
            self._progress.ended(record.score.outcome, record.score.value)
        finally:
            self._progress.episodes_running -= 1
            self._slots.release()
            capacity.release()
