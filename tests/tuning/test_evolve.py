"""Rejection sampling: a served model is asked, what scored is kept, and the next round starts from what it taught."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlm.errors import ConfigError
from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.evolve import evolve, keep
from agentlm.tuning.record import read
from tests.tuning.runs import settings, sums, write_records

GENERATOR = """
import json, sys, urllib.request
url, output, reward = sys.argv[1:]
ask = json.dumps({"inputs": "1+1?", "parameters": {"max_new_tokens": 2}}).encode()
request = urllib.request.Request(url + "/generate", ask, {"Content-Type": "application/json"})
text = json.load(urllib.request.urlopen(request, timeout=60))["generated_text"]
with open(output, "w") as out:
    for item in range(3):
        answer = f"It is {item + 1}. {text}"
        record = {"id": f"try-{item}", "source": "tries", "task": "sum", "item": str(item)}
        record["reward"] = float(reward) * (item > 0)
        record["messages"] = [{"role": "user", "content": f"{item}+1?"}, {"role": "assistant", "content": answer}]
        out.write(json.dumps(record) + chr(10))
"""


def evolving(directory: Path, **changes: Any) -> TuneConfig:
    values = settings(directory, training__steps=1, **changes)
    return TuneConfig.from_dict(values)


def command(directory: Path, reward: float) -> str:
    script = directory / "generate.py"
    script.write_text(GENERATOR, encoding="utf-8")
    # Braces of the command's own stay.
    return f"test ${{HOME}} && {sys.executable} {script} {{url}} {{output}} {reward}"


def test_what_scored_is_tuned_on(tmp_path: Path) -> None:
    config = evolving(tmp_path)
    flags = "--threads 1"
    (done,) = evolve(config, command(tmp_path, 1.0), rounds=1, threshold=1.0, serve=flags)
    assert (done.generated, done.kept) == (3, 2)
    assert done.model == tmp_path / "out" / "round-1" / "run" / "model"
    assert {record.item for _, record in read(tmp_path / "out" / "round-1" / "kept.jsonl")} == {"1", "2"}
    used = TuneConfig.load(tmp_path / "out" / "round-1" / "run" / "config.toml")
    assert [source.name for source in used.data.sources] == ["agent", "general", "evolved"]
    # A round that is done is not done again: its command could not run.
    assert evolve(config, "false {url} {output}", rounds=1, threshold=1.0) == [done]
    # What earlier rounds kept stays, though nothing of the next one scores.
    first, second = evolve(config, command(tmp_path, 0.0), rounds=2, threshold=1.0, serve=flags)
    assert (first, second.generated, second.kept) == (done, 3, 2)


def test_a_command_that_fails_leaves_nothing(tmp_path: Path) -> None:
    config = evolving(tmp_path)
    with pytest.raises(TuneError, match="ended with 3: nothing was kept of round 1"):
        evolve(config, "echo {url} {output}; exit 3", rounds=1, threshold=1.0, serve="--threads 1")
    assert not (tmp_path / "out" / "round-1" / "generated.jsonl").exists()


def test_the_best_of_each_item_is_kept(tmp_path: Path) -> None:
    records = [
        {**record, "id": f"{item}-{reward}", "task": "t", "item": str(item), "reward": reward}
        for (item, reward), record in zip(
            [(0, 0.5), (0, 0.9), (1, 0.2), (2, None), (3, 0.5)], sums(5, "tries"), strict=True
        )
    ]
    first = write_records(tmp_path / "first.jsonl", records)
    second = write_records(tmp_path / "second.jsonl", [{**records[1], "id": "later"}])
    assert keep([first, second], tmp_path / "kept.jsonl", 0.5) == 2
    lines = (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["later", "3-0.5"]


@pytest.mark.parametrize(
    ("changes", "generate", "told"),
    [
        ({}, "echo {url}", "must say {url} and {output}"),
        ({"lora": {}}, "echo {url} {output}", "serves and tunes whole models"),
    ],
)
def test_what_cannot_evolve_is_refused(
    tmp_path: Path, changes: dict[str, Any], generate: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        evolve(evolving(tmp_path, **changes), generate, rounds=1, threshold=1.0)
