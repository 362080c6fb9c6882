"""The paper's table: its constants give back its own Overall numbers, and an incomplete group has none."""

import pytest

from agentlm_evals.report.published import COLUMNS, GROUP_TASKS, MEANS, OVERALL, SCORES, overall
from agentlm_evals.report.statistics import Estimate
from agentlm_evals.task import Group
from agentlm_evals.tasks import ENTRIES


@pytest.mark.parametrize("group", Group)
@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=COLUMNS)
def test_the_published_columns_give_the_published_overall(group: Group, column: int) -> None:
    scores = {task: Estimate(row[column], row[column], row[column], 1) for task, row in SCORES.items()}
    found = overall(scores, group)
    assert found is not None
    assert f"{found.value:.2f}" == f"{OVERALL[group][column]:.2f}"


def test_the_constants_are_those_of_the_reference() -> None:
    known = {
        "alfworld": 20.4,
        "webshop": 27.78,
        "mind2web": 8.9,
        "knowledge-graph": 15.86,
        "os": 19.14,
        "database": 11.92,
    }
    known |= {"science-world": 15.56, "miniwob": 31.28, "webarena": 2.76, "hotpotqa": 34.96, "rewoo": 60.56}
    known |= {"card-game": 15.9, "mmlu": 64.16, "humaneval": 35.64, "gsm8k": 52.82, "mt-bench": 7.338}
    assert known == pytest.approx(MEANS)


def test_every_task_of_the_registry_is_in_the_table_and_in_its_group() -> None:
    assert {entry.name for entry in ENTRIES} == set(SCORES)
    for entry in ENTRIES:
        assert entry.name in GROUP_TASKS[entry.group]


def test_an_incomplete_group_has_no_overall() -> None:
    scores = {task: Estimate(50.0, 50.0, 50.0, 1) for task in GROUP_TASKS[Group.GENERAL][:-1]}
    assert overall(scores, Group.GENERAL) is None


def test_the_interval_of_overall_adds_the_tasks_variances() -> None:
    exact = {task: Estimate(MEANS[task], MEANS[task], MEANS[task], 1) for task in GROUP_TASKS[Group.GENERAL]}
    one = exact | {"gsm8k": Estimate(MEANS["gsm8k"], MEANS["gsm8k"] - 5.282, MEANS["gsm8k"] + 5.282, 1)}
    found = overall(one, Group.GENERAL)
    assert found is not None
    # A tenth of one of four tasks.
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.975, 1.025))
