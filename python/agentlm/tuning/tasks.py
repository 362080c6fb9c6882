"""Task runs on the way: the weights as they are, served by `agentlm serve` and asked over HTTP like any model.

What asks is the wheel `agentlm-evals` in a process of its own: `agentlm eval` for tasks, its episode runner for worlds. The
server is started once; later runs exchange its weights, and between them it sleeps. Refuses to know ranks, and how
the weights came to be where they are.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentlm.errors import AgentLMError, ConfigError
from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import EvaluationSection
from agentlm.tuning.served import POLL_SECONDS, Served, last_words, start, stop

FIRST_GAME = 1_000_000
"""Number of a world's first game here: of the split that is never trained on, and far from those that final tests play."""


class GivenUpError(AgentLMError):
    """A task run did not come to its end: it was interrupted, or took too long."""


class TaskRuns:
    """The task runs of one training run. `directory` keeps the transcripts, and the weights while they are served.

    Raises `ConfigError` if the wheel that carries them out is not there.
    """

    def __init__(self, settings: EvaluationSection, directory: Path) -> None:
        if find_spec("agentlm_evals") is None:
            raise ConfigError(
                "`evaluation.tasks` and `worlds` are run by the wheel agentlm-evals, which is not installed: "
                "pip install 'agentlm[evals]', or take them out"
            )
        self.settings = settings
        self.directory = directory
        self.model = directory / "model"
        """Where the weights must lie when a run begins."""
        self._served: Served | None = None

    def run(self, step: int, tick: Callable[[], bool]) -> dict[str, Any]:
        """Puts the weights in `self.model` to every task: scores in per cent (ratings as they are), samples, faults.

        `tick` is called every moment and says whether to give up. What fails is told as `error` beside the scores that
        there are: nothing is raised for it.
        """
        began = time.monotonic()
        told: dict[str, Any] = {"step": step, "score": {}, "samples": {}, "faults": {}}
        errors: list[str] = []

        def wait() -> None:
            if tick():
                raise GivenUpError("interrupted")
            if time.monotonic() - began > self.settings.seconds:
                raise GivenUpError(f"`evaluation.seconds` = {self.settings.seconds:g} are over")

        place = self.directory / f"step-{step:08}"
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            with self._server(wait) as served:
                for part in (self._tasks, self._worlds):
                    try:
                        part(served, place, wait, told)
                    except TuneError as error:
                        errors.append(str(error))
        except (AgentLMError, OSError, ValueError, LookupError, TypeError) as error:
            # The last three: what was written cannot be read as a report or a record.
            errors.append(str(error) or type(error).__name__)
        told["seconds"] = time.monotonic() - began
        if errors:
            told["error"] = "; ".join(errors)
        return told

    def close(self) -> None:
        """Ends the server and removes the weights it was given; transcripts stay."""
        if self._served is not None:
            self._served.close()
            self._served = None
        shutil.rmtree(self.model, ignore_errors=True)

    @contextmanager
    def _server(self, wait: Callable[[], None]) -> Iterator[Served]:
        """The server with the weights as they are now; afterwards it gives its memory back."""
        served = self._exchanged() or Served(
            self.model,
            ("--log-level", "off", *self.settings.serve_arguments),
            self.directory / "serve.log",
            guarded=True,
            wait=wait,
        )
        self._served = served
        try:
            yield served
            served.post("/sleep", {})
        except BaseException:
            # In whatever state it is, the next run starts another one.
            self._served = None
            served.close()
            raise

    def _exchanged(self) -> Served | None:
        """The server of the run before, with the new weights; None if there is none, or it cannot take them."""
        served, self._served = self._served, None
        if served is None:
            return None
        try:
            served.post("/wake", {})
            served.post("/weights/reload", {})
        except TuneError:
            served.close()
            return None
        return served

    def _tasks(self, served: Served, place: Path, wait: Callable[[], None], told: dict[str, Any]) -> None:
        tasks, kept = self.settings.tasks, place / "tasks"
        if not tasks:
            return
        # Answers are not kept: the same address has other weights each time.
        words = [
            "eval",
            "run",
            *tasks,
            "--url",
            served.url,
            "--limit",
            str(self.settings.samples),
            "--out",
            str(kept),
        ]
        failed = self._asked(
            served, ["-m", "agentlm", *words, "--no-cache", *self.settings.eval_arguments], place, wait
        )
        if not (kept / "run.json").is_file():
            raise TuneError(f"agentlm eval: {failed or 'it left no run'}")
        report = place / "report.json"
        if failed_report := self._asked(
            served,
            ["-m", "agentlm", "report", str(kept), "--format", "json", "--out", str(report)],
            place,
            wait,
        ):
            raise TuneError(f"agentlm report: {failed_report}")
        for row in json.loads(report.read_text(encoding="utf-8"))["rows"]:
            finished = sum(row["outcomes"].values()) - row["outcomes"]["fault"]
            _add(
                told,
                row["task"],
                row["estimate"]["value"] if finished else None,
                finished,
                row["outcomes"]["fault"],
            )
        if failed:
            raise TuneError(f"agentlm eval: {failed}")

    def _worlds(self, served: Served, place: Path, wait: Callable[[], None], told: dict[str, Any]) -> None:
        worlds, kept = self.settings.worlds, place / "worlds.jsonl"
        if not worlds:
            return
        words = ["--url", served.url, "--first", str(FIRST_GAME), "--count", str(self.settings.samples)]
        failed = self._asked(
            served, ["-m", "agentlm_evals.episode", *worlds, *words, "--output", str(kept)], place, wait
        )
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
        records = [json.loads(line) for line in lines]
        for world in worlds:
            own = [record["reward"] for record in records if record["task"] == world]
            rewards = [reward for reward in own if reward is not None]
            mean = 100 * sum(rewards) / len(rewards) if rewards else None
            if own:
                _add(told, world, mean, len(rewards), len(own) - len(rewards))
        if failed:
            raise TuneError(f"agentlm_evals.episode: {failed}")

    def _asked(self, served: Served, words: list[str], place: Path, wait: Callable[[], None]) -> str | None:
        """Runs Python with these words to its end; what it said last if that was no good one."""
        log = place / "said.log"
        process = start([sys.executable, *words], log, {"AGENTLM_API_KEY": served.key or ""})
        try:
            while process.poll() is None:
                wait()
                if not served.alive:
                    raise TuneError(f"the server ended: {last_words(self.directory / 'serve.log')}")
                time.sleep(POLL_SECONDS)
        finally:
            stop(process)
        return None if process.returncode == 0 else f"{last_words(log, 1)} (see {log})"


def _add(told: dict[str, Any], name: str, score: float | None, samples: int, faults: int) -> None:
    if score is not None:
        told["score"][name] = score
    told["samples"][name] = samples
    if faults:
        told["faults"][name] = faults
