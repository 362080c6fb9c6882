"""No command of `agentlm data` writes over what it reads, or twice to one file."""

import json

import pytest
from click.testing import CliRunner

from agentlm.cli.data import audit, contamination, filter, import_, stats  # noqa: A004  # the command's name
from agentlm.tuning.data import outputs
from agentlm.tuning.data.errors import DataError
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import chat

LINE = chat("Hi", "Hello").dump() + "\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "set.jsonl").write_text(json.dumps({"text": "b"}) + "\n")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [
    (import_, "-o a.jsonl", "-o b.jsonl"),
    (import_, "-o b.jsonl --rejects a.jsonl", "-o b.jsonl --rejects c.jsonl"),
    (import_, "-o b.jsonl --rejects b.jsonl", "-o b.jsonl --rejects b.rejects.jsonl"),
    (filter, "-o link.jsonl", "-o b.jsonl"),
    (filter, "-o b.jsonl --removed ./b.jsonl", "-o b.jsonl --removed c.jsonl"),
    (filter, "-o b.jsonl --report a.jsonl", "-o b.jsonl --report b.json"),
    (audit, "--model {model} --html a.jsonl", "--model {model} --html a.html"),
    (audit, "--model {model} --passed b.jsonl --refused b.jsonl", "--model {model} --passed b.jsonl --refused c.jsonl"),
    (stats, "--json a.jsonl", "--json a.json"),
    (contamination, "--against set.jsonl --json set.jsonl", "--against set.jsonl --json set.json"),
    (contamination, "--against set.jsonl --html a --json a", "--against set.jsonl --html a --json b"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "bad", "good"), CASES, ids=[f"{m.__name__.rpartition('.')[2]} {bad}" for m, bad, _ in CASES]
)
def test_what_would_be_lost_is_refused(module, bad, good, folder, model):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def run(words):
        extra = ["--no-drift", "--show", "0"] if module is audit else []
        return CliRunner().invoke(module.command, ["a.jsonl", *words.format(model=model).split(), *extra])

    refused = run(bad)
    assert isinstance(refused.exception, DataError)
    assert "is an input too" in str(refused.exception) or "cannot hold two outputs" in str(refused.exception)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    done = run(good)
    assert done.exit_code == 0, done.output
    assert (folder / "a.jsonl").read_text() == LINE


def test_an_output_that_is_not_asked_for_is_none():
    outputs.check(["a"], None, None, "b")
    with pytest.raises(DataError, match="b cannot hold two outputs"):
        outputs.check(["a"], "b", "./b")
