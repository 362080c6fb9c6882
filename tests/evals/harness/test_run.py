"""A run against a model in this process: how many episodes are under way, and what is shown of them."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentlm_evals.harness.plan import RunSettings, TaskPlan, plan_task
from agentlm_evals.harness.progress import Progress
from agentlm_evals.harness.run import Runner
from agentlm_evals.model import Decoding, Generation, Limits, Prompt
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.task import Setting, Source, Task, resolve_options
from agentlm_evals.tasks import entry


class Slow:
    """A model that waits, and counts who waits with it."""

    name, origin, limits = "slow", "", Limits()

    def __init__(self) -> None:
        self.asked = self.running = self.most = 0

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return Generation("The answer is 4.", "eos_token", 10, 5)

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        raise AssertionError("nothing here is scored")

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt) if isinstance(prompt, str) else sum(len(one.content) for one in prompt)


def planned(settings: RunSettings, task: Task | None = None) -> TaskPlan:
    task = task or entry("gsm8k").load()
    return plan_task(task, Setting(Source(), Protocol(AGENTLM), resolve_options(task, {})), settings)


@pytest.mark.parametrize(
    ("asked", "servers", "most"), [(3, 64, 3), (None, 5, 5), (None, 64, 24), (64, 5, 24)]
)
async def test_as_many_episodes_are_under_way_as_were_asked_for_or_the_servers_take(
    tmp_path: Path, asked: int | None, servers: int, most: int
) -> None:
    settings, model = RunSettings(concurrency=asked), Slow()
    runner = Runner(
        [planned(settings)],
        {"gsm8k": model},
        settings,
        tmp_path,
        {"name": "m"},
        concurrency=servers,
        shown=False,
    )
    result = await runner.run()
    assert (result.finished, model.asked, model.most) == (24, 24, most)


async def test_no_more_than_an_environment_carries(tmp_path: Path) -> None:
    class Narrow(type(entry("gsm8k").load())):  # type: ignore[misc]  # the task's own class
        def capacity(self, setting: Setting) -> int:
            return 2

    settings, model = RunSettings(), Slow()
    runner = Runner(
        [planned(settings, Narrow())], {"gsm8k": model}, settings, tmp_path, {"name": "m"}, shown=False
    )
    await runner.run()
    assert (model.asked, model.most) == (24, 2)


def test_the_line_says_how_the_run_stands(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    now = 100.0
    monkeypatch.setattr("agentlm_evals.harness.progress.time.monotonic", lambda: now)
    progress = Progress(10, 2, shown=True)
    progress.finished_before(Outcome.RIGHT, 1.0)
    progress.finished_before(Outcome.WRONG, 0.0)
    now = 102.0
    progress.tokens, progress.episodes_running = 300, 4
    progress.ended(Outcome.RIGHT, 1.0)
    progress.ended(Outcome.FORMAT_OR_LIMIT, 0.0)
    progress.ended(Outcome.HARNESS_FAULT, 0.0)
    # Four that count, half of them right: 1.96 * sqrt(1/3 / 4) is the interval's half.
    assert progress.line() == "4 running, score 0.500 ± 0.566, 150 tok/s, 1 faults"
    progress.show(redraw=True)
    progress.close()
    drawn = capsys.readouterr().err.split("\r")[-1]
    # Done of planned, and the time left.
    assert re.search(r"5/10 \[.*<.*, 4 running, score 0.500 ± 0.566, 150 tok/s, 1 faults\]", drawn), drawn
