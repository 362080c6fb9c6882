"""Published texts are read by syntax tree, never executed, and only out of the pinned files."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.errors import ProtocolError
from agentlm_evals.protocols.source import Extract, _text, load, strings_of
from agentlm_evals.tasks import ENTRIES

SOURCE = '''
import sys
sys.exit("this file was executed")
A, B = 1, 2
SHOT = """two
lines"""
TABLE: dict = {"a": ["x", "y"]}
COMPUTED = SHOT + "!"

class Task:
    """A docstring counts."""
    prompt = "in a class"

    def build(self, name):
        if name == "first":
            return f"Hello {name!r}, {{braces}} {len(name):>3}"
        return "second" " half" + 'third'
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "harness.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("name", "index", "text"),
    [
        ("SHOT", None, "two\nlines"),
        ("TABLE", None, {"a": ["x", "y"]}),
        ("Task.prompt", None, "in a class"),
        ("Task.build", 0, "first"),
        ("Task.build", 1, "Hello {0}, {{braces}} {1}"),
        ("Task.build", 2, "second half"),
        ("Task.build", 3, "third"),
    ],
)
def test_texts_are_found_where_they_stand(file: Path, name: str, index: int | None, text: object) -> None:
    assert _text(file, Extract("harness.py", name, index)) == text


def test_a_format_string_takes_values_with_braces(file: Path) -> None:
    assert strings_of(file, "Task.build")[1].format("{x}", 3) == "Hello {x}, {braces} 3"


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("NONE", None, "has no NONE"),
        ("COMPUTED", None, "no constant|not a constant"),
        ("Task.build", 9, "has 4 strings"),
    ],
)
def test_what_is_not_there_is_said(file: Path, name: str, index: int | None, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        _text(file, Extract("harness.py", name, index))


def test_a_missing_checkout_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="agentlm data fetch agenttuning"):
        load("gsm8k", tmp_path / "nowhere")
    with pytest.raises(ProtocolError, match="is --protocol-dir a checkout"):
        load("gsm8k", tmp_path)


def test_another_version_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "eval_general" / "eval_gsm8k_tgi.py"
    path.parent.mkdir()
    path.write_text("Q1 = 'Question: another'")
    found = sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ProtocolError, match=f"has the SHA-256 {found}, not 76e15add"):
        load("gsm8k", tmp_path)


def test_every_built_tasks_published_texts_are_there() -> None:
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    for entry in ENTRIES:
        if entry.is_built and (task := entry.load()).sources:
            protocol = load(entry.name, Path(directory))
            assert set(protocol.texts) == set(task.sources)
            assert "e33a45d" in protocol.version


def test_a_task_of_which_nothing_was_published_needs_no_checkout(tmp_path: Path) -> None:
    protocol = load("humaneval", tmp_path / "nothing")
    assert (protocol.name, protocol.version, protocol.template) == (
        "agenttuning",
        "assumed by agentlm",
        "llama-2",
    )
    # All others are read, and all that are not say on every row what was assumed.
    for entry in ENTRIES:
        if entry.is_built and "agenttuning" in (task := entry.load()).protocols:
            assert task.source_files or "agenttuning" in task.assumptions
            assert bool(task.source_files) == bool(task.sources)
