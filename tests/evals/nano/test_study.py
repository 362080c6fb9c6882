"""The study's plan is a valid one for `agentlm tune`, its test items are the same for every cell, its intervals hold."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from agentlm.tuning.config import TuneConfig
from agentlm_evals.environments import HELD_IN, HELD_OUT, Split
from agentlm_evals.environments.world import split_of
from bench.nano_study.plan import ETAS, FULL, REHEARSAL, Cell, Size, cells, stages, to_toml
from bench.nano_study.report import GROUPS, interval, summarise, table
from bench.nano_study.run import items, questions, shares

RECIPES = Path(__file__).parents[3] / "recipes" / "nano"


@pytest.mark.parametrize("size", [FULL, REHEARSAL], ids=["full", "rehearsal"])
def test_every_stage_is_taken_and_goes_on_from_one_that_ran(size: Size) -> None:
    written = {"/study/start"}
    for cell in cells(size):
        for name, config in stages(cell, size, "/study").items():
            read = TuneConfig.from_dict(tomllib.loads(to_toml(config)))
            assert read.model.path in written
            assert read.output == f"/study/{name}"
            assert read.seed == cell.seed
            written.add(f"{read.output}/model")
        assert name == cell.name
    assert len(written) == 1 + 2 + size.seeds * len(ETAS)


@pytest.mark.parametrize("stage", ["practice", "nano", "arithmetic"])
def test_the_recipe_is_a_configuration(stage):
    assert TuneConfig.load(RECIPES / f"{stage}.toml").data.length == 1024


def test_the_full_study_is_as_large_as_promised():
    assert FULL.seeds >= 3
    assert FULL.episodes >= 200
    assert {0.0, 0.2, 1.0} <= set(ETAS)


def test_items_and_questions_are_the_same_each_time_and_of_the_test_split():
    assert len(items(HELD_IN, 200)) == len(items(HELD_OUT, 200)) == 200
    assert all(item.split is Split.TEST for item in items(HELD_OUT, 200))
    asked = questions(200)
    assert asked == questions(200)
    assert len({exchange.question for exchange in asked}) == 200
    assert all(exchange.wanted and split_of(exchange.question) is Split.TEST for exchange in asked)


def test_cells_that_are_made_at_once_share_the_cores_and_no_core() -> None:
    assert shares({0, 1}, 1) == [{0, 1}]
    assert shares({3, 0, 1, 2, 7}, 2) == [{0, 2, 7}, {1, 3}]
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"{wrong} cells at once.* 1 to 2"):
            shares({0, 1}, wrong)


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


def test_the_table_pairs_items_and_takes_the_one_base_for_every_seed() -> None:
    size = Size(scale=1, practice_steps=1, base_steps=1, tune_steps=1, seeds=2, episodes=2)

    def scores(first: float, second: float) -> dict[str, dict[str, float]]:
        return {group: {"a": first, "b": second} for group in ("held-in", "held-out", "general")}

    results = {Cell(eta, seed).name: scores(1, 0) for eta in ETAS for seed in (1, 2)}
    results["eta-1-1"] = results["eta-1-2"] = scores(1, 1)
    results["base"] = scores(0, 0)
    rows = {row["variant"]: row for row in summarise(results, size)}
    assert rows["base"]["held-in"] == [0, 0, 0]
    assert rows["base"]["general beyond agent only"] == [-100, -100, -100]
    assert rows["agent only, η = 1"]["held-in"] == [100, 100, 100]
    assert rows["agent only, η = 1"]["held-in beyond agent only"] == [0, 0, 0]
    mixed = rows["mixed, η = 0.2"]
    assert mixed["general"] == [50, 0, 100]
    assert mixed["general beyond agent only"] == [-50, -100, 0]
    assert "| mixed, η = 0.2 | 50.0 (0.0 to 100.0) |" in table(list(rows.values()))
