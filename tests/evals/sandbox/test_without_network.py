"""Every embedded task of this wheel's environments runs inside a network namespace without a network."""

import shutil
import subprocess
import sys

import pytest

from agentlm_evals.sandbox import image
from agentlm_evals.sandbox.trial import why_not
from agentlm_evals.tasks.database.mariadb import server_program

PROGRAM = """
import asyncio, socket, sys
from agentlm_evals.harness.episode import Episode
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.harness.run import run_episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.task import Setting, Source, resolve_options
from agentlm_evals.tasks import entry

assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
task = entry(sys.argv[1]).load()
options = dict(pair.split("=") for pair in sys.argv[3:])
where = Setting(Source(), Protocol(AGENTLM), resolve_options(task, options))

async def run():
    plan = plan_task(task, where, RunSettings(limit=int(sys.argv[2])))
    judge = ScriptedModel(lambda _: "[[8]]", "judge") if task.name == "mt-bench" else None
    async with task.environment(where) as environment:
        for sample in plan.samples:
            agent = task.gold(sample, AGENTLM) or (lambda _: "a")
            episode = Episode(
                sample=sample, setting=where, model=ScriptedModel(agent), decoding=plan.decoding, environment=environment,
                judge=judge,
            )
            score = (await run_episode(plan, episode)).score
            assert score.outcome.value == "right", (sample.id, score)
    print("right:", len(plan.samples))

asyncio.run(run())
"""


def can_unshare() -> bool:
    command = shutil.which("unshare")
    return bool(command) and subprocess.run([command, "-n", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="`unshare -n` is not allowed here: it needs root")


@pytest.mark.parametrize(
    ("task", "count", "options"),
    [
        ("database", 24, ["engine=sqlite"]),
        pytest.param(
            "database", 3, ["engine=mariadb"],
            marks=pytest.mark.skipif(server_program() is None, reason="no MariaDB server is installed"),
        ),
        ("os", 2, []),
        pytest.param("humaneval", 2, [], marks=pytest.mark.skipif(bool(why_not()), reason=why_not())),
        ("rewoo", 7, []),
        ("hotpotqa", 3, []),
        ("card-game", 4, []),
        ("mt-bench", 2, []),
    ],
)  # fmt: skip
def test_a_task_runs_without_a_network(task, count, options):
    if task == "os":
        from agentlm_evals.tasks.os import RECIPE

        if image.find(RECIPE, image.default_cache()) is None:
            pytest.skip(f"no root file system for sandboxes is built in {image.default_cache()}")
    command = ["unshare", "-n", sys.executable, "-c", PROGRAM, task, str(count), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, f"right: {count}"), done.stderr[-2000:]
