"""HumanEval: canonical solutions, programs that cheat or rage, pass@k by hand."""

import asyncio
import math

import pytest

from agentlm_evals.errors import ConfigError
from agentlm_evals.harness.doctor import examine, play
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.outcome import Outcome, harness_fault, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.sandbox.trial import why_not
from agentlm_evals.task import Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.humaneval import TASK
from agentlm_evals.tasks.humaneval.estimator import pass_at_k
from agentlm_evals.tasks.humaneval.program import check, code_of, program_of

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def setting(directory=None, protocol: str = AGENTLM, **options: str) -> Setting:
    return Setting(Source(directory), Protocol(protocol), resolve_options(TASK, options))


def test_own_samples_have_a_gold_path_and_nothing_scores_nothing():
    finding = asyncio.run(examine(TASK, setting()))
    assert finding.wrong == []
    assert (finding.gold, finding.solved, finding.nothing_solved) == (22, 22, 0)


def test_canonical_solutions_pass(data_dir):
    # Every twelfth here; all 164 by `agentlm-eval eval doctor humaneval`.
    where = setting(data_dir, seconds="30")
    plan = plan_task(TASK, where, RunSettings())
    assert len(plan.samples) == TASK.max_samples == 164

    async def some():
        async with TASK.environment(where) as environment:
            chosen = plan.samples[::12]
            return await asyncio.gather(
                *(play(plan, sample, TASK.gold(sample, AGENTLM), environment) for sample in chosen)
            )

    assert [score.details.get("output") for score in asyncio.run(some())] == [""] * 14


@pytest.mark.parametrize("protocol", [AGENTLM, AGENTTUNING])
def test_a_reply_scores_as_worked_out_by_hand(protocol):
    where = setting(protocol=protocol)
    solution = "def clamp(value, low, high):\n    return max(low, min(value, high))\n"
    replies = [
        (f"Sure.\n```python\n{solution}```\nDone.", "right"),
        (f"First the test:\n```python\nassert clamp\n```\nNow:\n```py\n{solution}```", "right"),
        (f"```python\n{solution}", "right"),
        (solution, "right"),
        ("    return max(low, min(value, high))\n", "right"),
        ("return max(low, min(value, high))\n", "right"),
        ("```python\ndef clamp(value, low, high):\n    return value\n```", "wrong"),
        ("```python\ndef clamp(value, low, high) return value\n```", "format or limit"),
        ("AAAAA", "wrong"),
        ("I cannot help with that.", "format or limit"),
    ]

    async def run():
        plan = plan_task(TASK, where, RunSettings(sample_ids=("own/10",)))
        async with TASK.environment(where) as environment:
            return [await play(plan, plan.samples[0], scripted(text), environment) for text, _ in replies]

    scores = asyncio.run(run())
    assert [(text, score.outcome.value) for (text, _), score in zip(replies, scores, strict=True)] == replies


def test_a_base_model_goes_on_with_the_text_until_something_else_begins():
    where = setting(form="completion")
    reply = "    return max(low, min(value, high))\n\ndef other(:\n"

    async def run():
        plan = plan_task(TASK, where, RunSettings(sample_ids=("own/10",)))
        async with TASK.environment(where) as environment:
            return await play(plan, plan.samples[0], scripted(reply), environment)

    assert asyncio.run(run()).outcome is Outcome.RIGHT


TEST = "def check(candidate):\n    assert candidate(1) == 2\n"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("def f(x):\n    return x + 1\n", "passed"),
        ("print('noise')\ndef f(x):\n    print('more')\n    return x + 1\n", "passed"),
        ("def f(x):\n    return x\n", "failed"),
        ("import sys\nsys.exit(0)\n", "failed"),
        ("import os\nos._exit(0)\n", "failed"),
        ("def f(x):\n    raise SystemExit(0)\n", "failed"),
        ("def check(candidate):\n    pass\ndef f(x):\n    return 0\n", "failed"),
        ("def f(x):\n    while True: pass\n", "timed out"),
        ("import time\ntime.sleep(60)\n", "timed out"),
        ("input()\n", "failed"),
        ("import subprocess\nsubprocess.run(['sleep', '0'])\ndef f(x):\n    return x + 1\n", "passed"),
        (
            "import socket\nsocket.create_connection(('192.0.2.1', 80))\ndef f(x):\n    return x + 1\n",
            "failed",
        ),
        ("open('/usr/lib/agentlm', 'w')\ndef f(x):\n    return x + 1\n", "failed"),
        ("import os\nwhile True:\n    os.fork()\n", "timed out"),
        ("raise BaseException\n", "failed"),
    ],
)
def test_only_reaching_the_end_of_the_tests_passes(program, why):
    run = check(program, TEST, "f", seconds=2 if "timed" in why else 20)
    assert run.why == why or (why == "timed out" and run.why in ("failed", "out of memory"))
    assert run.passed is (why == "passed")


def test_memory_is_capped():
    run = check("x = []\nwhile True: x.append(bytearray(1 << 22))", TEST, "f", seconds=30)
    assert not run.passed
    assert run.why in ("failed", "out of memory")


def test_code_is_taken_from_the_block_that_defines_the_function():
    assert code_of("```\na\n```\n```python\ndef f(): pass\n```", "f") == "def f(): pass\n"
    assert code_of("```\na\n```", "f") == "a\n"
    assert code_of("a", "f") == "a"
    assert program_of("P:\n", "x = 1\n\ny = 2", "f") == "P:\n    x = 1\n\n    y = 2\n"
    assert program_of("P\n", "def f():\n  pass", "f") == "P\n\n\ndef f():\n  pass\n"


@pytest.mark.parametrize(
    ("count", "correct", "k", "value"),
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (4, 1, 2, 0.5), (5, 2, 3, 0.9), (10, 9, 2, 1.0), (200, 50, 1, 0.25)],
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(count, correct, k, value):
    assert pass_at_k(count, correct, k) == pytest.approx(value)
    by_hand = 1 - math.comb(count - correct, k) / math.comb(count, k)
    assert pass_at_k(count, correct, k) == pytest.approx(by_hand)


@pytest.mark.parametrize(("count", "correct", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_of_too_few_is_refused(count, correct, k):
    with pytest.raises(ConfigError):
        pass_at_k(count, correct, k)


def test_the_report_gets_pass_at_k_of_runs_that_were_runs():
    scores = {"a": [right(), wrong(), wrong(), wrong(), wrong()], "b": [wrong()] * 5}
    assert TASK.numbers(scores) == {"pass@5": pytest.approx(50.0)}
    assert TASK.numbers({"a": [*scores["a"][:4], harness_fault("x")], "b": [wrong()] * 5}) == {}
    assert TASK.numbers({"a": [right()]}) == {}


def test_the_assumed_protocol_says_so():
    assert "no prompt was published" in TASK.assumptions[AGENTTUNING]
