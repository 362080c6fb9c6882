"""The task as a whole: reference solutions, nothing at all, transcripts worked out by hand, hostile commands."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agentlm_evals.harness.doctor import examine, play
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.sandbox import image
from agentlm_evals.task import Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.os import RECIPE, TASK

OURS = Protocol(AGENTLM)
PUBLISHED = Protocol(
    AGENTTUNING,
    {
        "instruction": "Work in a shell.\n\n",
        "problem": "Problem: ",
        "next": "Next: ",
        "shot": [{"role": "user", "content": "count"}, {"role": "agent", "content": "Act: answer(220)"}],
    },
)


def setting(directory: Path | None = None, protocol: Protocol = OURS, **options: str) -> Setting:
    return Setting(Source(directory), protocol, resolve_options(TASK, {"workers": "2", **options}))


@pytest.fixture(scope="module", autouse=True)
def _can_run():
    if image.find(RECIPE, image.default_cache()) is None:
        pytest.skip(
            f"no root file system for sandboxes is built in {image.default_cache()}: agentlm-eval eval doctor os"
        )
    if missing := TASK.requirements(setting()):
        pytest.skip("; ".join(f"{one.what}: {one.how}" for one in missing))


def run_all(where: Setting, dialogues: list[tuple[str, list[str]]]) -> list[Any]:
    """(sample, the model's replies) to scores, all in one environment."""

    async def run_them():
        async with TASK.environment(where) as environment:
            plans = [plan_task(TASK, where, RunSettings(sample_ids=(name,))) for name, _ in dialogues]
            return [
                await play(plan, plan.samples[0], scripted(*replies), environment)
                for plan, (_, replies) in zip(plans, dialogues, strict=True)
            ]

    return asyncio.run(run_them())


def bash(code: str) -> str:
    return f"Think: I try.\n\nAct: bash\n\n```bash\n{code}\n```"


def answer(text: str) -> str:
    return f"Think: I know.\n\nAct: answer({text})"


FINISH = "Think: It is done.\n\nAct: finish"


def test_own_samples_have_a_gold_path_and_nothing_scores_nothing():
    finding = asyncio.run(examine(TASK, setting()))
    assert finding.wrong == []
    assert (finding.gold, finding.solved, finding.nothing_solved) == (24, 24, 0)


def solved(where: Setting, step: int = 1) -> list[str]:
    """The samples, every `step`th of them, whose reference solution is not right."""

    async def some():
        plan = plan_task(TASK, where, RunSettings())
        limit = asyncio.Semaphore(2)
        async with TASK.environment(where) as environment:

            async def one(sample) -> str:
                async with limit:
                    score = await play(plan, sample, TASK.gold(sample, AGENTLM), environment)
                return "" if score.outcome is Outcome.RIGHT else f"{sample.id}: {score}"

            return await asyncio.gather(*(one(sample) for sample in plan.samples[::step]))

    return asyncio.run(some())


def test_all_26_development_items_pass_with_their_reference_solution(data_dir):
    assert solved(setting(data_dir, split="dev")) == [""] * 26


def test_training_items_pass_with_their_reference_solution(data_dir):
    # Some here; all by `agentlm-eval eval doctor os -T os.split=train --limit 1000`. Items 252, 540 and 683 cannot:
    # the reference of one gives two numbers, the others change what they count before the check counts again.
    assert solved(setting(data_dir, split="train"), step=70) == [""] * 15


TRANSCRIPTS = [
    ("own-01", [answer("2")], "right", None),
    ("own-01", [bash("ls /docs"), answer(" 2 ")], "right", None),
    ("own-01", [answer("3")], "wrong", None),
    ("own-01", [answer("two")], "wrong", None),
    ("own-01", [FINISH], "wrong", None),
    ("own-01", ["I would count them."], "format or limit", "no action"),
    ("own-01", ["Think: x\n\nAct: bash\n\nls"], "format or limit", "no action"),
    ("own-01", [bash("ls")], "format or limit", "8 turns and no answer"),
    ("own-05", [answer("sun moon tree")], "right", None),
    ("own-09", [bash("mkdir /books"), FINISH], "right", None),
    ("own-09", [bash("mkdir /books"), "AAAAA"], "right", None),
    ("own-09", [FINISH], "wrong", None),
    ("own-09", [bash("cd /\nX=books"), bash('mkdir "$X"'), FINISH], "right", None),
    ("own-09", ["Act: answer(no)\n" + bash("mkdir /books"), FINISH], "right", None),
    ("own-22", [bash("sleep 1.2; ls -t /var/tmp | head -1"), answer("b.log")], "right", None),
    ("own-23", [answer("sandbox")], "right", None),
    ("own-23", [answer("localhost")], "wrong", None),
    # (sample, replies, outcome, why)
]


def test_scripted_dialogues_score_as_worked_out_by_hand():
    scores = run_all(setting(), [(sample, replies) for sample, replies, _, _ in TRANSCRIPTS])
    for score, (sample, replies, outcome, why) in zip(scores, TRANSCRIPTS, strict=True):
        found = (sample, replies, score.outcome.value, score.details.get("why"))
        assert found == (sample, replies, outcome, why)


def test_the_published_dialogue_begins_with_its_worked_example_and_takes_no_block_for_an_empty_one():
    scores = run_all(setting(protocol=PUBLISHED), [("own-01", ["Act: bash\n\nls", answer("2")])])
    assert scores[0].outcome is Outcome.RIGHT


HOSTILE = [
    "f() { f | f & }; f",
    "yes",
    "rm -rf --no-preserve-root / 2>/dev/null",
    "head -c 4G /dev/zero > /fill; head -c 4G /dev/zero > /dev/shm/fill",
    "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'",
    "curl -m 2 http://192.0.2.1; ping -c1 -W1 192.0.2.1; git clone https://192.0.2.1/x",
    "kill -9 -1; kill -9 1",
    "exec bash -c 'trap \"\" HUP INT TERM; kill -STOP $$'",
    "chmod -R 000 /etc /usr/bin",
]


@pytest.mark.parametrize("command", HOSTILE)
def test_a_hostile_command_costs_its_episode_only(command, monkeypatch):
    monkeypatch.setattr("agentlm_evals.tasks.os.system.COMMAND_SECONDS", 2.0)
    monkeypatch.setattr("agentlm_evals.tasks.os.system.SCRIPT_SECONDS", 5.0)
    before = sum(path.name.isdigit() for path in Path("/proc").iterdir())
    begun = time.monotonic()
    hostile, after = run_all(
        setting(), [("own-01", [bash(command), answer("wrong")]), ("own-01", [answer("2")])]
    )
    assert hostile.outcome in (Outcome.WRONG, Outcome.FORMAT_OR_LIMIT)
    assert after.outcome is Outcome.RIGHT
    assert time.monotonic() - begun < 30
    assert Path("/usr/bin/env").exists()
    assert sum(path.name.isdigit() for path in Path("/proc").iterdir()) < before + 60


def test_an_item_whose_script_is_not_there_is_a_fault_and_not_left_out(tmp_path):
    folder = tmp_path / "os_interaction" / "data"
    (folder / "1").mkdir(parents=True)
    item = '[{"description": "d", "evaluation": {"check": {"file": "check/9.sh"}}}]'
    (folder / "1" / "a.json").write_text(item)
    where = setting(tmp_path)
    assert [sample.id for sample in TASK.samples(where)] == ["1/a/0"]
    score = run_all(where, [("1/a/0", [FINISH])])[0]
    assert score.outcome is Outcome.HARNESS_FAULT
    assert "check/9.sh" in score.details["why"]
