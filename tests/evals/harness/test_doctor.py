"""The doctor: samples side by side as far as their environments carry them, findings in the samples' order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentlm_evals.errors import EnvironmentFault, RequirementError
from agentlm_evals.harness.doctor import examine
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding
from agentlm_evals.outcome import Score, right, wrong
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.task import Agent, Group, Metric, Sample, Setting, Source, Task, scripted

SETTING = Setting(Source(), Protocol(AGENTLM))


class Counting(Task):
    """Twelve samples whose answer is their number; the later ones end first."""

    name, title, group, metric = "counting", "Counting", Group.GENERAL, Metric("accuracy")
    carried = 3
    most = 0
    running = 0

    def capacity(self, setting: Setting) -> int:
        return self.carried

    def samples(self, setting: Setting) -> list[Sample]:
        return [Sample(f"s{at}", {}, str(at)) for at in range(12)]

    def decoding(self, protocol: str) -> Decoding:
        return Decoding(max_new_tokens=1)

    async def solve(self, episode: Episode) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001 * (12 - int(episode.sample.target)))
        self.running -= 1
        episode.user("?")
        return await episode.ask()

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        return right() if answer == sample.target else wrong(answer=answer)

    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        # One without a solution, and two whose solution is wrong.
        return {"s5": None, "s2": scripted("x"), "s9": scripted("y")}.get(sample.id, scripted(sample.target))


async def test_samples_are_played_side_by_side_and_told_in_their_order() -> None:
    task = Counting()
    finding = await examine(task, SETTING)
    assert task.most == 3
    assert (finding.gold, finding.solved, finding.without, finding.nothing_solved) == (11, 9, 1, 0)
    assert [line.split(":")[0] for line in finding.wrong] == ["s2", "s9"]
    assert not finding.is_well


async def test_what_a_task_lacks_ends_its_examination_without_a_verdict() -> None:
    class Lacking(Counting):
        asked = 0

        async def solve(self, episode: Episode) -> Any:
            self.asked += 1
            raise RequirementError("a judge is needed")

    task = Lacking()
    finding = await examine(task, SETTING)
    assert finding.not_played == "a judge is needed"
    assert task.asked <= 3


async def test_an_environment_that_does_not_open_is_one_error() -> None:
    class Closed(Counting):
        @asynccontextmanager
        async def environment(self, setting: Setting) -> AsyncIterator[Any]:
            raise EnvironmentFault("the engine does not start")
            yield

    with pytest.raises(EnvironmentFault, match="the engine does not start"):
        await examine(Closed(), SETTING)
