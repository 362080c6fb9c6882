"""The configuration: read as written, refused with the key, the value and the reason."""

from pathlib import Path
from typing import Any

import pytest

from agentlm.errors import ConfigError
from agentlm.tuning.config import TuneConfig
from tests.tuning.changes import changed

SOURCES = [{"name": "a", "path": "a.jsonl"}, {"name": "b", "path": ["b.jsonl", "c.jsonl"]}]


def values(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "output": "out",
        "model": {"path": "base"},
        "data": {"sources": [dict(source) for source in SOURCES]},
        "training": {"steps": 10},
    }
    return changed(made, changes)


def grouped(**changes: Any) -> dict[str, Any]:
    return values(
        data__sources=[SOURCES[0] | {"group": "agent"}, SOURCES[1] | {"group": "general"}],
        data__eta=0.2,
        **changes,
    )


@pytest.mark.parametrize(
    "given",
    [
        values(),
        grouped(),
        values(lora={"rank": 8}, training__betas=[0.9, 0.999], data__tag_weights={"a tag": 2.0, "b": 0}),
        values(training__clip=False, training__steps=None, training__epochs=1.5),
        values(evaluation={"every": 5, "sources": [{"name": "held", "path": 'with "quotes".jsonl'}]}),
        values(training__optimizer_state="bfloat16", training__betas=[0.9, 0.99]),
        values(
            evaluation={
                "every": 5,
                "tasks": ["gsm8k", "card-game"],
                "worlds": ["shop"],
                "serve_arguments": ["--x=1"],
            }
        ),
    ],
)
def test_what_is_printed_is_read_as_the_same(given: dict[str, Any], tmp_path: Path) -> None:
    config = TuneConfig.from_dict(given)
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert TuneConfig.load(file) == config


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (values(extra=1), "unknown keys at the top: extra. Known: output, model"),
        (values(training__lr=1), r"unknown keys in \[training\]: lr"),
        (values(data__sources=[{"name": "a"}]), r"`data.sources\[0\].path` is missing"),
        (values(training__steps="ten"), "`training.steps` must be an integer. Given: 'ten'"),
        (values(training__steps=True), "`training.steps` must be an integer. Given: True"),
        (values(training__steps=0), "`training.steps` must be an integer from 1"),
        (values(training__steps=None), "either `training.steps` or `training.epochs`"),
        (values(training__epochs=1.0), "either `training.steps` or `training.epochs`"),
        (values(training__schedule="wavy"), "one of cosine, linear, constant. Given: 'wavy'"),
        (values(training__warmup=1.5), "`training.warmup` must be a number from 0 to 1. Given: 1.5"),
        (values(training__learning_rate=0.0), "`training.learning_rate` must be a number above 0"),
        (values(training__betas=[0.9]), "`training.betas` must be 2 values"),
        (values(training__betas=[0.9, 1.0]), "two numbers from 0 to below 1"),
        (values(training__optimizer_state="bfloat16", training__betas=[0.9, 0.999]), "less than bfloat16 can tell"),
        (values(data__sources=[]), "`data.sources` is empty"),
        (values(data__sources=[SOURCES[0], SOURCES[0]]), "has 'a' more than once"),
        (values(data__eta=0.2), "give both `eta` and a `group` for every source"),
        (values(data__sources=[SOURCES[0] | {"group": "agent"}, SOURCES[1]]), "source 'b' has no `group`"),
        (values(data__sources=[SOURCES[0] | {"group": "agent"}], data__eta=0.5), "gives group 'general' a share of 0.5"),
        (values(data__sources=[SOURCES[0] | {"weight": 1.0}, SOURCES[1]]), "have a `weight` and some have not"),
        (values(data__tag_weights={"x": -1}), "`data.tag_weights.x` must be a number from 0"),
        (values(lora={"targets": ["lm_head"]}), r"`lora.targets` names \['lm_head'\]; allowed are q_proj"),
        (values(lora={}, model__init="random"), "low-rank additions to weights that know nothing"),
        (values(evaluation={"every": 2}), r"neither \[\[evaluation.sources\]\] nor `tasks`"),
        (values(evaluation={"sources": [SOURCES[0]]}), r"a.jsonl is both trained on \(source 'a'\) and held out"),
        (values(evaluation={"sources": [{"name": "held", "path": "c.jsonl"}]}), "c.jsonl is both trained on"),
        (values(evaluation={"tasks": ["--limit"]}), r"`evaluation.tasks` has '--limit'; a name is of letters"),
        (values(evaluation={"worlds": [""]}), r"`evaluation.worlds` has ''; a name is of letters"),
        (values(evaluation={"tasks_every": 5}), "`evaluation.tasks_every` is set, and there are neither `tasks` nor"),
        (values(evaluation={"tasks": ["gsm8k"], "samples": 0}), "`evaluation.samples` must be an integer from 1"),
        (values(evaluation={"tasks": ["gsm8k"], "seconds": 0.0}), "`evaluation.seconds` must be a number above 0"),
        (values(checkpoints={"keep": 0}), "`checkpoints.keep` must be an integer from 1"),
        (values(seed=-1), "`seed` must be an integer from 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_reason(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TuneConfig.from_dict(given)


@pytest.mark.parametrize(
    ("text", "told"),
    [("output = ", "is not valid TOML"), ('output = "x"\n', "`model` is missing")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match=r"there is no file .*run\.toml"):
        TuneConfig.load(file)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"run.toml.*{told}"):
        TuneConfig.load(file)


def test_changes_take_the_place_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TuneConfig.from_dict(values()).to_toml(), encoding="utf-8")
    changed = TuneConfig.load(file, [("training.steps", None), ("training.epochs", 2.0), ("lora.rank", 4)])
    assert (changed.training.steps, changed.training.epochs) == (None, 2.0)
    assert changed.lora is not None
    assert changed.lora.rank == 4
    with pytest.raises(ConfigError, match="`output` is not a table"):
        TuneConfig.load(file, [("output.rank", 4)])


def test_the_recipe_is_read(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "agentlm-7b.toml"
    config = TuneConfig.load(recipe)
    assert (config.data.eta, config.training.steps, config.training.batch, config.data.length) == (
        0.2,
        2000,
        64,
        4096,
    )
