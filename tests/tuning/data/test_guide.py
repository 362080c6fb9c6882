"""The commands of docs/guide-data.md, in their order, on small files: each does what the page says."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from agentlm.tuning import record
from agentlm.tuning.data import formats
from agentlm.tuning.data.audit import REASONS as AUDITED
from agentlm.tuning.data.filtering import REASONS as FILTERED
from tests.cli.commands import agentlm
from tests.tuning.data import checkpoints

SAMPLES = Path(__file__).parent / "samples"
TEXT = (Path(__file__).parents[3] / "docs" / "guide-data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}(agentlm data .*)$", TEXT, re.MULTILINE)
QUESTION = {"question": "How many eggs does a hen lay in a week, one every day but on Sunday?", "answer": "6"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Everything the page's commands wrote, and how each ended."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("guide")
    checkpoints.checkpoint(folder / "MODEL")
    for name in ("agentinstruct.json", "sharegpt.jsonl"):
        shutil.copy(SAMPLES / name, folder / name)
    (folder / "gsm8k_test.jsonl").write_text(json.dumps(QUESTION) + "\n")
    return folder, {command: agentlm(*shlex.split(command)[1:], cwd=folder) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_succeeds(ran, command):
    result = ran[1][command]
    assert (result.returncode, result.stderr) == (0, "")


def test_the_files_are_what_the_page_says(ran):
    folder, done = ran
    agent = [row for _, row in record.read(folder / "agent-kept.jsonl")]
    general = [row for _, row in record.read(folder / "general-kept.jsonl")]
    assert {(row.source, row.tags[0]) for row in agent} == {("agentinstruct", "agent")}
    assert {(row.source, row.tags[0]) for row in general} == {("sharegpt", "general")}
    assert (len(agent), len(general)) == (3, 7)
    for name in ("audit.html", "lengths.png", "general-report.json", "general-refused.jsonl"):
        assert (folder / name).exists(), name
    shown = next(result.stdout for command, result in done.items() if "--lines" in command)
    assert shown.count("⟦Think: I count the files.") == 1
    assert "⟦Ok." not in shown


def test_the_record_on_the_page_is_one():
    example = re.search(r"^ {4}(\{\"id\".*?\]\})$", TEXT, re.MULTILINE | re.DOTALL)
    shown = record.parse(example.group(1))
    assert [message.trained for message in shown.messages] == [False, False, False, True]


def test_the_tables_name_every_format_and_reason():
    cells = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`([a-z_-]+)`", " ".join(cells)))
    assert set(formats.NAMES) <= named
    assert set(FILTERED) - {"record"} <= named
    assert set(AUDITED) - {"record"} <= named
