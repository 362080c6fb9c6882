"""`agentlm data filter` as a person calls it: the table, the files, the options that take `TASK=VALUE`."""

import json

import pytest

from agentlm.tuning.record import Writer
from tests.cli.commands import agentlm
from tests.tuning.data.conversations import STEPS, chat, episode


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "in.jsonl"
    with Writer(file) as writer:
        writer.add(episode(*STEPS, reward=1.0, source="a"))
        writer.add(episode(*STEPS[:3], reward=0.5, source="a"))
        writer.add(episode("I walk to the shelf.", reward=1.0, source="a"))
        writer.add(chat("Hi", "Hello", source="chats"))
    return file


def test_the_table_says_what_went_and_why(records, tmp_path):
    out = tmp_path / "out.jsonl"
    ran = agentlm("data", "filter", records, "-o", out, "--report", tmp_path / "report.json")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        "task or source  read  kept  reward  form",
        "alfworld           3     1       1     1",
        "chats              1     1       0     0",
        "all                4     2       1     1",
        "reward: the reward is below the task's threshold",
        "form: an agent's turn has no action that its harness could read",
        f"2 conversations to {out}",
        f"2 conversations removed; see {tmp_path / 'out.removed.jsonl'}",
        f"wrote {tmp_path / 'report.json'}",
    ]
    assert json.loads((tmp_path / "report.json").read_text())["reasons"] == {"reward": 1, "form": 1}
    assert [
        json.loads(line)["line"] for line in (tmp_path / "out.removed.jsonl").read_text().splitlines()
    ] == [2, 3]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--min-reward", "0.5"), 3),
        (("--min-reward", "alfworld=0.5"), 3),
        (("--min-reward", "ALFWorld=0.5"), 3),
        (("--min-reward", "webshop=0.5"), 2),
        (("--min-reward", "off", "--form", "alfworld=none"), 4),
        (("--form", "alfworld=click"), 1),
        (("--max-turns", "3"), 1),
        (("--max-turns", "6"), 2),
    ],
)
def test_options_move_the_limits(records, tmp_path, options, kept):
    agentlm("data", "filter", records, "-o", tmp_path / "out.jsonl", *options)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == kept


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--min-reward", "much"), 2, "'much' is not REWARD or TASK=REWARD"),
        (("--min-reward", "=0.5"), 2, "'=0.5' names no task"),
        (("--min-reward", "nan"), 1, "the least reward of every task must be a number; it is nan"),
        (("--form", "alfworld"), 2, "'alfworld' is not TASK=FORM"),
        (("--max-tokens", "9"), 1, "max_tokens needs a model"),
        (("--max-repeats", "1"), 1, "max_repeats must be 0 (off) or at least 2"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(records, tmp_path, options, code, said):
    ran = agentlm("data", "filter", records, "-o", tmp_path / "out.jsonl", *options)
    assert ran.returncode == code
    assert said in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_names_of_others_making_command_no_terminal(tmp_path):
    file = tmp_path / "in.jsonl"
    with Writer(file) as writer:
        writer.add(chat("Hi", "Hello", source="\x1b[2Jchats\nall"))
    shown = agentlm("data", "filter", file, "-o", tmp_path / "out.jsonl").stdout
    assert "\x1b" not in shown
    assert "␛[2Jchats␊all" in shown


def test_lines_that_are_no_records_fail_a_strict_run(records, tmp_path):
    records.write_text(records.read_text() + "{}\n")
    lenient = agentlm("data", "filter", records, "-o", tmp_path / "out.jsonl")
    assert lenient.returncode == 0
    assert "record: not a conversation record" in lenient.stdout
    assert agentlm("data", "filter", records, "-o", tmp_path / "out.jsonl", "--strict").returncode == 1
