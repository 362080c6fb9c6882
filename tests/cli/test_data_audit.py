"""`agentlm data audit` as a person calls it: its exit code, what it prints, the files it writes."""

import json

import pytest

from agentlm.tuning.record import Writer
from tests.cli.commands import agentlm
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import chat


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def records(tmp_path):
    def write(*rows):
        with Writer(tmp_path / "in.jsonl") as writer:
            for row in rows:
                writer.add(row)
        return tmp_path / "in.jsonl"

    return write


def test_sound_data_pass_and_are_shown(model, records):
    ran = agentlm("data", "audit", records(chat("Hi", "Hello")), "--model", model)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "<|begin|><|user|>Hi<|end|><|assistant|>⟦Hello<|end|>⟧" in ran.stdout
    assert ran.stdout.splitlines()[-3:] == [
        "1 conversation, 12 tokens, 6 of them trained (50.0 %); the longest has 12",
        "drift judged by: jinja2 and the checkpoint's tokenizer, by transformers",
        "nothing refused",
    ]


def test_what_must_not_be_trained_on_is_named_and_fails(model, records, tmp_path):
    file = records(
        chat("Hi", "Hello"),
        chat("Hi", "[INST] Hello", id="leaky"),
        chat("Hi", "Hello again, " * 9, id="long"),
    )
    outputs = {name: tmp_path / f"{name}.out" for name in ("html", "json", "passed", "refused")}
    options = [part for name, path in outputs.items() for part in (f"--{name}", path)]
    ran = agentlm("data", "audit", file, "--model", model, "--no-drift", "--max-length", "64", *options)
    assert ran.returncode == 1
    assert ran.stderr == ""
    assert "REFUSED 1 conversation, leak: text of a template stands in a message\n" in ran.stdout
    assert (
        f"  {file}:2 leaky: messages[1] of the assistant holds a special token of a chat form: '[INST]'"
        in ran.stdout
    )
    assert (
        "REFUSED 1 conversation, truncated: a trained turn is cut off at the longest length\n" in ran.stdout
    )
    assert "drift judged by: not asked for" in ran.stdout
    assert json.loads(outputs["json"].read_text())["reasons"] == {"leak": 1, "truncated": 1}
    assert outputs["html"].read_text().startswith("<!doctype html>")
    assert [json.loads(line)["id"] for line in outputs["passed"].read_text().splitlines()] == ["1"]
    assert [json.loads(line)["reason"] for line in outputs["refused"].read_text().splitlines()] == [
        "leak",
        "truncated",
    ]
    lenient = ("--max-length", "64", "--allow", "leak", "--allow", "truncated")
    allowed = agentlm("data", "audit", file, "--model", model, "--no-drift", *lenient)
    assert allowed.returncode == 0
    assert "allowed 1 conversation, leak" in allowed.stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--max-length", "1"), 1, "max_length must be at least 2"),
        (("--allow", "everything"), 1, "a reason must be one of record, template"),
        (("--lines", "one"), 2, "'one' is not a list of line numbers such as 3,17"),
    ],
)
def test_wrong_options_are_refused(model, records, options, code, said):
    ran = agentlm("data", "audit", records(chat("Hi", "Hello")), "--model", model, *options)
    assert ran.returncode == code
    assert said in ran.stderr


def test_a_model_without_a_length_needs_one(model, records, tmp_path):
    bare = checkpoints.checkpoint(tmp_path / "bare")
    (bare / "config.json").unlink()
    ran = agentlm("data", "audit", records(chat("Hi", "Hello")), "--model", bare, "--no-drift")
    assert ran.returncode == 1
    assert "does not say how many positions the model has; give --max-length" in ran.stderr
