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
    both = {
        "data__sources": [SOURCES[0] | {"group": "agent"}, SOURCES[1] | {"group": "general"}],
        "data__eta": 0.2,
    }
    return values(**(both | changes))


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


HELD = [{"name": "held", "path": "held.jsonl"}]
PREFERRED = {"beta": 0.1}
REFUSALS = {
    "a key that is not known": (
        values(extra=1),
        "unknown keys at the top: extra. Known: output, model",
        values(seed=1),
    ),
    "a key of another table": (
        values(training__lr=1),
        r"unknown keys in \[training\]: lr",
        values(training__learning_rate=1.0),
    ),
    "a path is missing": (
        values(data__sources=[{"name": "a"}]),
        r"`data.sources\[0\].path` is missing",
        values(),
    ),
    "no table": (
        values(model="base"),
        "`model` must be a table. Given: 'base'",
        values(model={"path": "base"}),
    ),
    "no list": (values(data__sources="a"), "`data.sources` must be a list", values()),
    "no text": (values(output=1), "`output` must be text. Given: 1", values(output="1")),
    "no output": (values(output=""), "`output` is empty: name the directory", values(output=".")),
    "an empty name": (
        values(data__sources=[{"name": "", "path": "a"}]),
        "a source needs a `name` and a `path`",
        values(),
    ),
    "a group that is none": (
        grouped(data__sources=[SOURCES[0] | {"group": "agents"}]),
        "one of agent, general. Given: 'agents'",
        grouped(),
    ),
    "a weight of nothing": (
        values(data__sources=[SOURCES[0] | {"weight": 0}]),
        "`weight` must be a number above 0",
        values(data__sources=[SOURCES[0] | {"weight": 0.1}]),
    ),
    "where weights come from": (
        values(model__init="zeros"),
        "`model.init` must be one of weights, random",
        values(model__init="random"),
    ),
    "text for a number": (
        values(training__steps="ten"),
        "`training.steps` must be an integer. Given: 'ten'",
        values(training__steps=10),
    ),
    "true for a number": (
        values(training__steps=True),
        "`training.steps` must be an integer. Given: True",
        values(training__steps=1),
    ),
    "text for true": (
        values(data__packing="no"),
        "`data.packing` must be true or false. Given: 'no'",
        values(data__packing=False),
    ),
    "no steps": (
        values(training__steps=0),
        "`training.steps` must be an integer from 1",
        values(training__steps=1),
    ),
    "neither steps nor epochs": (
        values(training__steps=None),
        "either `training.steps` or `training.epochs`",
        values(training__steps=None, training__epochs=1.0),
    ),
    "steps and epochs": (
        values(training__epochs=1.0),
        "either `training.steps` or `training.epochs`",
        values(training__epochs=1.0, training__steps=False),
    ),
    "no epochs": (
        values(training__epochs=0, training__steps=None),
        "`training.epochs` must be a number above 0",
        values(training__epochs=0.01, training__steps=None),
    ),
    "no packs": (
        values(training__batch=0),
        "`training.batch` must be an integer from 1",
        values(training__batch=1),
    ),
    "no packs at a time": (
        values(training__micro_batch=0),
        "`training.micro_batch` must be",
        values(training__micro_batch=1),
    ),
    "short packs": (
        values(data__length=15),
        "`data.length` must be an integer from 16",
        values(data__length=16),
    ),
    "too large a share": (
        grouped(data__eta=1.1),
        "`data.eta` must be a number from 0 to 1",
        grouped(data__eta=1.0),
    ),
    "a unit": (
        values(data__unit="tokens"),
        "one of conversations, trained_tokens",
        values(data__unit="trained_tokens"),
    ),
    "over-long": (
        values(data__over_length="cut"),
        "one of drop, split, refuse. Given: 'cut'",
        values(data__over_length="split"),
    ),
    "a schedule": (
        values(training__schedule="wavy"),
        "one of cosine, linear, constant. Given: 'wavy'",
        values(training__schedule="linear"),
    ),
    "a warm-up": (
        values(training__warmup=1.5),
        "`training.warmup` must be a number from 0 to 1. Given: 1.5",
        values(training__warmup=1.0),
    ),
    "a rate of nothing": (
        values(training__learning_rate=0.0),
        "`training.learning_rate` must be a number above 0",
        values(training__learning_rate=1e-9),
    ),
    "an end above the peak": (
        values(training__final_learning_rate=1.1),
        "`training.final_learning_rate` must be",
        values(training__final_learning_rate=1.0),
    ),
    "an end of what does not fall": (
        values(training__schedule="constant", training__final_learning_rate=0.1),
        '`training.schedule` = "constant" does not fall',
        values(training__schedule="linear", training__final_learning_rate=0.1),
    ),
    "a decay that grows": (
        values(training__weight_decay=-0.1),
        "`training.weight_decay` must be",
        values(training__weight_decay=0.1),
    ),
    "an epsilon of nothing": (
        values(training__epsilon=0),
        "`training.epsilon` must be a number above 0",
        values(training__epsilon=1e-8),
    ),
    "a clip of nothing": (
        values(training__clip=0),
        "`training.clip` must be a number above 0",
        values(training__clip=False),
    ),
    "no thread": (
        values(training__threads=0),
        "`training.threads` must be an integer from 1",
        values(training__threads=1),
    ),
    "a type": (
        values(training__dtype="float16"),
        "one of float32, bfloat16. Given: 'float16'",
        values(training__dtype="bfloat16"),
    ),
    "a type of states": (
        values(training__optimizer_state="int8"),
        "one of float32, bfloat16",
        values(training__optimizer_state="bfloat16"),
    ),
    "what is checkpointed": (
        values(training__activation_checkpointing="all"),
        "one of none, layers",
        values(training__activation_checkpointing="layers"),
    ),
    "a device": (values(training__device="tpu"), "one of auto, cpu, cuda", values(training__device="cuda")),
    "one beta": (
        values(training__betas=[0.9]),
        "`training.betas` must be 2 values",
        values(training__betas=[0.9, 0.95]),
    ),
    "a beta of one": (
        values(training__betas=[0.9, 1.0]),
        "two numbers from 0 to below 1",
        values(training__betas=[0.9, 0.999]),
    ),
    "narrow states that stand still": (
        values(training__optimizer_state="bfloat16", training__betas=[0.9, 0.999]),
        "less than bfloat16 can tell",
        values(training__optimizer_state="bfloat16", training__betas=[0.9, 0.996]),
    ),
    "a narrow mean that stands still": (
        values(training__optimizer_state="bfloat16", training__betas=[0.999, 0.95]),
        r"betas\[0\] = 0.999",
        values(training__optimizer_state="bfloat16", training__betas=[0.99, 0.95]),
    ),
    "what is compiled": (
        values(training__compile="yes"),
        "`training.compile` must be true or false. Given: 'yes'",
        values(training__compile=True),
    ),
    "compiled and deterministic": (
        values(training__compile=True, training__deterministic=True),
        "does not go with `training.deterministic`",
        values(training__compile=False, training__deterministic=True),
    ),
    "compiled and shared out": (
        values(training__compile=True, parallel={"tensor": 2}),
        "does not go with `parallel.tensor` = 2",
        values(training__compile=True, parallel={"tensor": 1}),
    ),
    "no source": (values(data__sources=[]), "`data.sources` is empty", values(data__sources=SOURCES[:1])),
    "a source twice": (
        values(data__sources=[SOURCES[0], SOURCES[0]]),
        "has 'a' more than once",
        values(data__sources=[SOURCES[0], SOURCES[0] | {"name": "again"}]),
    ),
    "a share of no group": (
        values(data__eta=0.2),
        "give both `eta` and a `group` for every source",
        grouped(),
    ),
    "groups without a share": (
        grouped(data__eta=None),
        "give both `eta` and a `group` for every source",
        grouped(),
    ),
    "a source without a group": (
        values(data__sources=[SOURCES[0] | {"group": "agent"}, SOURCES[1]]),
        "source 'b' has no `group`",
        grouped(),
    ),
    "a share of nobody": (
        values(data__sources=[SOURCES[0] | {"group": "agent"}], data__eta=0.5),
        "gives group 'general' a share of 0.5",
        values(data__sources=[SOURCES[0] | {"group": "agent"}], data__eta=1.0),
    ),
    "some weights": (
        values(data__sources=[SOURCES[0] | {"weight": 1.0}, SOURCES[1]]),
        "have a `weight` and some have not",
        values(data__sources=[SOURCES[0] | {"weight": 1.0}, SOURCES[1] | {"weight": 2.0}]),
    ),
    "a tag's weight": (
        values(data__tag_weights={"x": -1}),
        "`data.tag_weights.x` must be a number from 0",
        values(data__tag_weights={"x": 0}),
    ),
    "an adapter of rank 0": (
        values(lora={"rank": 0}),
        "`lora.rank` must be an integer from 1",
        values(lora={"rank": 1}),
    ),
    "an adapter that adds nothing": (
        values(lora={"alpha": 0}),
        "`lora.alpha` must be a number above 0",
        values(lora={"alpha": 1}),
    ),
    "an adapter of the head": (
        values(lora={"targets": ["lm_head"]}),
        r"`lora.targets` names \['lm_head'\]; allowed are q_proj",
        values(lora={"targets": ["q_proj"]}),
    ),
    "an adapter of nothing": (
        values(lora={"targets": []}),
        "`lora.targets` is empty",
        values(lora={"targets": ["o_proj"]}),
    ),
    "an adapter of a new model": (
        values(lora={}, model__init="random"),
        "low-rank additions to weights that know nothing",
        values(lora={}),
    ),
    "no ranks": (
        values(parallel={"tensor": 0}),
        "`parallel.tensor` must be an integer from 1",
        values(parallel={"tensor": 2}),
    ),
    "preferring nothing": (
        values(dpo={"beta": 0.0}),
        "`dpo.beta` must be a number above 0",
        values(dpo={"beta": 0.01}),
    ),
    "a margin below nothing": (
        values(dpo={"margin": -1}),
        "`dpo.margin` must be a number from 0",
        values(dpo={"margin": 0}),
    ),
    "preferring from nothing": (
        values(dpo=PREFERRED, model__init="random"),
        "nothing to prefer yet",
        values(dpo=PREFERRED),
    ),
    "preferring pieces": (
        values(dpo=PREFERRED, data__over_length="split"),
        "a pair is of whole trajectories",
        values(dpo=PREFERRED, data__over_length="drop"),
    ),
    "preferring by shares": (
        grouped(dpo=PREFERRED),
        "`data.eta`: every pair is drawn once",
        values(dpo=PREFERRED),
    ),
    "preferring by trained tokens": (
        values(dpo=PREFERRED, data__unit="trained_tokens"),
        "`data.unit` = 'trained_tokens': every pair is drawn once",
        values(dpo=PREFERRED, data__unit="conversations"),
    ),
    "preferring by tags": (
        values(dpo=PREFERRED, data__tag_weights={"x": 2.0}),
        "`data.tag_weights`: every pair is drawn once",
        values(dpo=PREFERRED),
    ),
    "preferring by weights": (
        values(dpo=PREFERRED, data__sources=[SOURCES[0] | {"weight": 1.0}]),
        "`weight`: every pair is drawn once",
        values(dpo=PREFERRED, data__sources=[SOURCES[0]]),
    ),
    "preferring unpacked": (
        values(dpo=PREFERRED, data__packing=False),
        r"\[dpo\] does not go with `data.packing` = false",
        values(data__packing=False),
    ),
    "evaluating nothing": (
        values(evaluation={"every": 2}),
        r"neither \[\[evaluation.sources\]\] nor `tasks`",
        values(evaluation={"every": 2, "sources": HELD}),
    ),
    "evaluating never": (
        values(evaluation={"every": 0, "sources": HELD}),
        "`evaluation.every` must be an integer from 1",
        values(evaluation={"every": 1, "sources": HELD}),
    ),
    "held out and trained on": (
        values(evaluation={"sources": [SOURCES[0]]}),
        r"a.jsonl is both trained on \(source 'a'\) and held out",
        values(evaluation={"sources": [SOURCES[0] | {"path": "d.jsonl"}]}),
    ),
    "held out and trained on, of several files": (
        values(evaluation={"sources": [{"name": "held", "path": "c.jsonl"}]}),
        "c.jsonl is both trained on",
        values(evaluation={"sources": [{"name": "held", "path": "d.jsonl"}]}),
    ),
    "held out twice": (
        values(evaluation={"sources": HELD * 2}),
        "`evaluation.sources` has 'held' more than once",
        values(evaluation={"sources": HELD}),
    ),
    "a flag for a task": (
        values(evaluation={"tasks": ["--limit"]}),
        r"`evaluation.tasks` has '--limit'; a name is of letters",
        values(evaluation={"tasks": ["limit"]}),
    ),
    "no world": (
        values(evaluation={"worlds": [""]}),
        r"`evaluation.worlds` has ''; a name is of letters",
        values(evaluation={"worlds": ["w"]}),
    ),
    "steps between no tasks": (
        values(evaluation={"tasks_every": 5}),
        "`evaluation.tasks_every` is set, and there are neither `tasks` nor",
        values(evaluation={"tasks_every": 5, "tasks": ["gsm8k"]}),
    ),
    "words for no tasks": (
        values(evaluation={"serve_arguments": ["--x"]}),
        "`evaluation.serve_arguments` is set, and there are neither",
        values(evaluation={"serve_arguments": ["--x"], "worlds": ["shop"]}),
    ),
    "no samples": (
        values(evaluation={"tasks": ["gsm8k"], "samples": 0}),
        "`evaluation.samples` must be an integer from 1",
        values(evaluation={"tasks": ["gsm8k"], "samples": 1}),
    ),
    "no time": (
        values(evaluation={"tasks": ["gsm8k"], "seconds": 0.0}),
        "`evaluation.seconds` must be a number above 0",
        values(evaluation={"tasks": ["gsm8k"], "seconds": 0.1}),
    ),
    "keeping nothing": (
        values(checkpoints={"keep": 0}),
        "`checkpoints.keep` must be an integer from 1",
        values(checkpoints={"keep": 1}),
    ),
    "saving never": (
        values(checkpoints={"every": 0}),
        "`checkpoints.every` must be an integer from 1",
        values(checkpoints={"every": 1}),
    ),
    "a seed below nothing": (values(seed=-1), "`seed` must be an integer from 0", values(seed=0)),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_refused_with_its_reason_and_what_nearly_equal_is_taken(case: str) -> None:
    bad, told, good = REFUSALS[case]
    with pytest.raises(ConfigError, match=told):
        TuneConfig.from_dict(bad)
    TuneConfig.from_dict(good)


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
