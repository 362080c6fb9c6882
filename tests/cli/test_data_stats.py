"""`agentlm data stats` as a person calls it."""

import json

import pytest

from agentlm.tuning.record import Writer
from tests.cli.commands import agentlm
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import STEPS, chat, episode


@pytest.fixture
def records(tmp_path):
    with Writer(tmp_path / "in.jsonl") as writer:
        writer.add(chat("Hi", "Hello", source="chats"))
        writer.add(episode(*STEPS, source="agents", reward=0.5))
    return tmp_path / "in.jsonl"


def test_without_a_model_characters_are_counted(records):
    ran = agentlm("data", "stats", records)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert " ".join(lines[0].split()) == (
        "source conversations turns trained characters median characters 95 % longest mean reward"
    )
    said = str(sum(len(message.content) for message in episode(*STEPS).messages))
    assert lines[1].split() == ["agents", "1", "12", "6", said, said, said, said, "0.500"]
    assert lines[2].split() == ["chats", "1", "2", "1", "7", "7", "7", "7", "-"]
    assert lines[3].split()[:3] == ["all", "2", "14"]
    assert lines[-1].endswith("######################################## 1")


def test_with_a_model_tokens_are_counted_and_drawn(records, tmp_path):
    model = checkpoints.checkpoint(tmp_path / "model")
    plot, file = tmp_path / "a.svg", tmp_path / "a.json"
    ran = agentlm("data", "stats", records, "--model", model, "--by", "task", "--plot", plot, "--json", file)
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[1].split()[6:10] == ["12", "6", "(50", "%)"]
    assert ran.stdout.endswith(f"wrote {file}\nwrote {plot}\n")
    assert json.loads(file.read_text())["groups"]["(no task)"]["trained_tokens"] == 6
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--plot", "a.txt"), 1, "ends in .png, .svg, .pdf"),
        (("--by", "day"), 2, "'day' is not one of"),
        (("--chat-template", __file__), 2, "--chat-template needs --model"),
    ],
)
def test_wrong_options_are_refused(records, options, code, said):
    ran = agentlm("data", "stats", records, *options)
    assert ran.returncode == code
    assert said in ran.stderr
