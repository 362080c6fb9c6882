"""The study's plan is a valid one for `agentlm tune`, its test items are the same for every cell, its intervals hold."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from agentlm.tuning.config import TuneConfig
from agentlm_evals.environments import HELD_IN, HELD_OUT, Split
from agentlm_evals.environments.world import split_of
from bench.nano_study.plan import ETAS, FULL, REHEARSAL, Cell, cells, config, to_toml
from bench.nano_study.report import GROUPS, interval, summarise, table
from bench.nano_study.run import items, questions

RECIPE = Path(__file__).parents[3] / "recipes" / "nano" / "nano.toml"


@pytest.mark.parametrize("size", [FULL, REHEARSAL], ids=["full", "rehearsal"])
@pytest.mark.parametrize("eta", [None, *ETAS])
def test_a_cell_is_a_configuration(size, eta):
    cell = Cell(1, eta)
    values = config(cell, size, "/somewhere")
    assert tomllib.loads(to_toml(values)) == values
    tuned = TuneConfig.from_dict(values)
    assert tuned.model.init == ("random" if eta is None else "weights")
    assert tuned.data.eta == eta
    assert tuned.output == f"/somewhere/{cell.name}"


def test_the_recipe_is_a_configuration():
    tuned = TuneConfig.load(RECIPE)
    assert (tuned.model.init, tuned.data.length) == ("random", 1024)


def test_the_full_study_is_as_large_as_promised():
    assert FULL.seeds >= 3
    assert FULL.episodes >= 200
    named = [cell.name for cell in cells(FULL)]
    assert len(named) == len(set(named)) == FULL.seeds * (1 + len(ETAS))
    assert named.index("base-1") < named.index("eta-1-1")
    assert {0.0, 0.2, 1.0} <= set(ETAS)


def test_items_and_questions_are_the_same_each_time_and_of_the_test_split():
    assert len(items(HELD_IN, 200)) == len(items(HELD_OUT, 200)) == 200
    assert all(item.split is Split.TEST for item in items(HELD_OUT, 200))
    asked = questions(200)
    assert asked == questions(200)
    assert len({exchange.question for exchange in asked}) == 200
    assert all(exchange.wanted and split_of(exchange.question) is Split.TEST for exchange in asked)


def test_an_interval_holds_the_mean_and_shrinks_with_more_items():
    rng = np.random.default_rng(1)
    few, many = rng.integers(0, 2, (3, 20)).astype(float), rng.integers(0, 2, (3, 2000)).astype(float)
    widths = []
    for scores in (few, many):
        low, high = interval(scores)
        assert low <= scores.mean() <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3
    assert interval(np.ones((3, 10))) == (1.0, 1.0)


def test_the_table_has_every_variant_and_agent_only_differs_from_itself_by_nothing():
    rng = np.random.default_rng(2)
    results = {
        cell.name: {group: {f"i{n}": float(rng.integers(2)) for n in range(12)} for group in GROUPS}
        for cell in cells(REHEARSAL)
    }
    rows = summarise(results, REHEARSAL)
    assert [row["variant"] for row in rows] == [
        "base", "general only, η = 0", "mixed, η = 0.1", "mixed, η = 0.2", "mixed, η = 0.5", "agent only, η = 1",
    ]  # fmt: skip
    assert rows[-1]["held-out beyond agent only"] == [0.0, 0.0, 0.0]
    shown = table(rows)
    assert "| agent only, η = 1 | +0.0 (+0.0 to +0.0) |" in shown
    assert shown.count("\n| ") >= 12
