"""An episode: budgets, seeds, how many examples fit, and how each kind of end is scored."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentlm_evals.clock import Clock
from agentlm_evals.errors import EnvironmentFault, FormatError, LimitReached, ModelError, UnsupportedError
from agentlm_evals.harness.episode import Budget, Episode, derive_seed
from agentlm_evals.harness.plan import RunSettings, TaskPlan, plan_task
from agentlm_evals.harness.run import run_episode
from agentlm_evals.model import Decoding, Generation, Limits
from agentlm_evals.models.choice import ModelChoice, open_model
from agentlm_evals.models.pool import Patience
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.outcome import Outcome, Score, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.task import (
    Agent,
    Group,
    Metric,
    Sample,
    Setting,
    Source,
    Task,
    Unit,
    resolve_options,
    scripted,
)
from agentlm_evals.tasks import entry
from tests.evals.server import said, scripted_server, tgi

SETTING = Setting(Source(), Protocol(AGENTLM))


class Puzzle(Task):
    """A task whose episodes end as the sample says."""

    name, title, group = "puzzle", "Puzzle", Group.GENERAL
    metric = Metric("accuracy")
    protocols = (AGENTLM, AGENTTUNING)

    def samples(self, setting: Setting) -> list[Sample]:
        return [Sample(str(at), {"question": at}) for at in range(3)]

    def decoding(self, protocol: str) -> Decoding:
        return Decoding(max_new_tokens=10)

    async def solve(self, episode: Episode) -> Any:
        end = episode.sample.target
        if isinstance(end, BaseException):
            raise end
        if end == "sleep":
            await asyncio.sleep(10)
        episode.user("?")
        return {"answer": await episode.ask()} if end != "strange" else {"answer": object()}

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        return right() if answer["answer"] == "yes" else wrong()

    def gold(self, sample: Sample, protocol: str) -> Agent:
        return scripted("yes")


def plan() -> TaskPlan:
    return plan_task(Puzzle(), SETTING, RunSettings())


def episode(target: Any = None, *, reply: str = "yes", **more: Any) -> Episode:
    return Episode(
        Sample("1", {}, target), SETTING, ScriptedModel(scripted(reply)), Decoding(max_new_tokens=10), **more
    )


@pytest.mark.parametrize(
    ("target", "outcome", "why"),
    [
        (None, Outcome.RIGHT, None),
        (FormatError("no action"), Outcome.FORMAT_OR_LIMIT, "no action"),
        (LimitReached("15 rounds"), Outcome.FORMAT_OR_LIMIT, "15 rounds"),
        (
            EnvironmentFault("the database is gone"),
            Outcome.HARNESS_FAULT,
            "EnvironmentFault: the database is gone",
        ),
        (KeyError("x"), Outcome.HARNESS_FAULT, "KeyError: 'x'"),
        (TimeoutError("a command"), Outcome.HARNESS_FAULT, "TimeoutError: a command"),
        ("strange", Outcome.HARNESS_FAULT, "TypeError: Object of type object is not JSON serializable"),
    ],
    ids=str,
)
async def test_each_kind_of_end_is_told_apart(target: Any, outcome: Outcome, why: str | None) -> None:
    record = await run_episode(plan(), episode(target))
    assert record.score.outcome is outcome
    assert record.score.details.get("why") == why


@pytest.mark.parametrize("error", [ModelError("gone"), UnsupportedError("no scores")])
async def test_what_concerns_every_episode_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)):
        await run_episode(plan(), episode(error))


async def test_time_that_is_over_is_a_limit() -> None:
    record = await run_episode(plan(), episode("sleep", budget=Budget(seconds=0.05)))
    assert (record.score.outcome, record.score.details["why"]) == (
        Outcome.FORMAT_OR_LIMIT,
        "the episode's 0.05 seconds are over",
    )


async def test_a_token_budget_shortens_the_last_reply_and_ends_the_episode() -> None:
    one = episode(budget=Budget(tokens=14), reply="a b c d e f g h")
    await one.generate("?")
    await one.generate("?")
    assert [call.decoding.max_new_tokens for call in one.calls] == [10, 6]
    with pytest.raises(LimitReached, match="14 tokens are spent"):
        await one.generate("?")


async def test_seeds_come_from_run_sample_epoch_and_call() -> None:
    async def seeds(**more: Any) -> list[int]:
        one = episode(**more)
        await one.generate("?")
        await one.generate("?")
        return [call.seed for call in one.calls]

    assert await seeds() == await seeds()
    assert len({*await seeds(), *await seeds(epoch=1), *await seeds(run_seed=1)}) == 6
    assert all(0 <= seed < 2**63 for seed in await seeds())
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


class Narrow(ScriptedModel):
    """A model of so many tokens; a token a word."""

    def __init__(self, total: int | None) -> None:
        super().__init__(scripted("yes"))
        self.limits = Limits(None, total)

    async def generate(self, prompt: Any, decoding: Decoding, seed: int) -> Generation:
        return await super().generate(prompt, decoding, seed)


@pytest.mark.parametrize(
    ("total", "shots"), [(None, 8), (10_000, 8), (260, 8), (130, 4), (60, 1), (50, 0), (37, 0)]
)
async def test_as_many_examples_as_fit(total: int | None, shots: int) -> None:
    one = Episode(Sample("1", {}), SETTING, Narrow(total), Decoding(max_new_tokens=10))

    def pose(count: int) -> None:
        for _ in range(count):
            one.example("word " * 25)
        one.user("word " * 20)

    assert await one.fitting(8, pose) == shots
    assert len(one.messages) == shots + 1


async def test_a_question_that_does_not_fit_is_a_limit() -> None:
    one = Episode(Sample("1", {}), SETTING, Narrow(24), Decoding(max_new_tokens=10))
    with pytest.raises(LimitReached, match="context of 24 tokens"):
        await one.fitting(8, lambda _: one.user("word " * 20))


async def test_a_published_protocol_is_never_cut() -> None:
    setting = Setting(Source(), Protocol(AGENTTUNING))
    one = Episode(Sample("1", {}), setting, Narrow(30), Decoding(max_new_tokens=10))
    assert await one.fitting(8, lambda count: one.user("word " * count)) == 8


async def test_what_the_model_said_is_told_from_what_it_was_shown() -> None:
    one = episode()
    one.system("s")
    one.user("u")
    one.example("e")
    one.user("v")
    await one.ask()
    assert [message.to_json() for message in one.messages[2:]] == [
        {"role": "assistant", "content": "e", "loss": False},
        {"role": "user", "content": "v"},
        {"role": "assistant", "content": "yes"},
    ]


async def test_time_lost_to_servers_that_fail_is_not_the_models() -> None:
    failures = [(503, {"error": "ill"})] * 3

    def handle(body: Any) -> Any:
        return failures.pop() if failures else said("yes")

    # The waits between four attempts take longer than the episode may.
    async with (
        scripted_server(tgi(handle)) as server,
        open_model(ModelChoice(patience=Patience(attempts=5, seconds=20, timeout=5)), [server.url]) as model,
    ):
        one = episode(budget=Budget(seconds=0.2))
        one.model = model.with_template("plain")
        record = await run_episode(plan(), one)
    assert (record.score.outcome, failures) == (Outcome.RIGHT, [])


async def test_a_clock_that_is_excused_still_ends() -> None:
    clock = Clock(0.05)

    async def work() -> None:
        async with clock.running():
            clock.excuse(0.05)
            await asyncio.sleep(0.08)
            assert not clock.is_over
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await work()
    assert clock.is_over


async def test_what_the_command_line_set_no_task_changes() -> None:
    settings = RunSettings(temperature=0.0)
    one = episode(overridden=settings.overridden)
    await one.generate("?", temperature=0.7, max_new_tokens=3)
    assert (one.calls[0].decoding.temperature, one.calls[0].decoding.max_new_tokens) == (0.0, 3)
    # Said on the record: the task's own temperature may be the same number by chance.
    with_, without = (
        plan_task(Puzzle(), SETTING, given).identity({"name": "m"}) for given in (settings, RunSettings())
    )
    assert with_ != without


async def test_budgets_are_part_of_what_a_run_is() -> None:
    plans = [plan_task(Puzzle(), SETTING, RunSettings(budget=Budget(tokens=left))) for left in (None, 9)]
    one, other = (each.identity({"name": "m"}) for each in plans)
    assert "budget" not in one
    assert other["budget"] == {"tokens": 9, "seconds": None}


async def test_a_token_budget_needs_a_server_that_counts() -> None:
    class Silent(ScriptedModel):
        async def generate(self, prompt: Any, decoding: Decoding, seed: int) -> Generation:
            return Generation("yes", "eos_token", 0, 0)

    one = episode(budget=Budget(tokens=9))
    one.model = Silent(scripted("yes"))
    with pytest.raises(UnsupportedError, match="no --episode-tokens"):
        await run_episode(plan(), one)


async def test_a_limit_is_worth_the_worst_rating() -> None:
    rated = replace(plan(), task=Rated())
    record = await run_episode(rated, episode(LimitReached("too long")))
    assert (record.score.outcome, record.score.value) == (Outcome.FORMAT_OR_LIMIT, 1.0)


class Rated(Puzzle):
    """A task whose values are ratings."""

    metric = Metric("rating", Unit.RATING, is_share=False)


def test_what_decides_no_result_is_no_part_of_a_run() -> None:
    task = entry("database").load()

    def identity(**given: str) -> dict[str, Any]:
        options = resolve_options(task, {"engine": "sqlite", **given})
        where = Setting(Source(), Protocol(AGENTLM), options)
        return plan_task(task, where, RunSettings()).identity({"name": "m"})

    assert identity(workers="2") == identity(workers="8")
    secret = "mysql://root:secret@host:3306"
    assert "secret" not in str(identity(url=secret))
    assert identity() != identity(url=secret), "another engine is another run"
