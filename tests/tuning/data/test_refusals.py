"""Every refusal of `agentlm data import`, `filter`, `audit` and `stats` as a whole, and what nearly equal passes.

What is refused of single rows and conversations stands beside its rule (test_dialects.py, test_record.py, test_filter.py,
test_poison.py, test_audit.py).
"""

import gzip
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from agentlm.cli.data import audit, filter, import_, stats  # noqa: A004  # the command's name
from agentlm.errors import AgentLMError
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import chat

LINE = (chat("Hi", "Hello").dump() + "\n").encode()
ROW = b'{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}'


@dataclass(frozen=True)
class Typed:
    """A command and its words, in a folder with a.jsonl (one record) and these files."""

    of: ModuleType
    words: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    def run(self, folder: Path) -> Result:
        for name, content in {"a.jsonl": LINE, **self.files}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return CliRunner().invoke(self.of.command, shlex.split(self.words))


def taken(words: str, **files: bytes) -> Typed:
    return Typed(
        import_, f"{words} -o out.jsonl", {name.replace("__", "."): held for name, held in files.items()}
    )


def filtered(words: str, **files: bytes) -> Typed:
    named = {name.replace("__", "."): held for name, held in files.items()}
    return Typed(filter, f"{'b.jsonl' if named else 'a.jsonl'} {words} -o out.jsonl", named)


def audited(words: str, **files: bytes) -> Typed:
    named = {name.replace("__", "."): held for name, held in files.items()}
    return Typed(audit, f"{'b.jsonl' if named else 'a.jsonl'} {words} --no-drift --show 0", named)


REFUSALS = {
    # Files.
    "import: a file that is not there": (
        taken("nowhere.jsonl"),
        "'nowhere.jsonl' does not exist",
        taken("a.jsonl"),
    ),
    "import: a file twice": (
        taken("a.jsonl a.jsonl"),
        "a.jsonl is named twice",
        taken("a.jsonl b.jsonl", b__jsonl=LINE),
    ),
    "import: a folder without a file": (
        Typed(import_, "in -o out.jsonl", {"in/a.txt": ROW}),
        "in holds no file that ends in .jsonl, .ndjson, .json, .parquet",
        Typed(import_, "in -o out.jsonl", {"in/a.txt": ROW, "in/a.json": b"[" + ROW + b"]"}),
    ),
    "import: text called JSON": (
        taken("b.json", b__json=b"hello"),
        "b.json: must begin with [ or {; it begins with 'h'",
        taken("b.json", b__json=b"[]"),
    ),
    "import: an array that was cut off": (
        taken("b.json", b__json=b"[" + ROW),
        "b.json",
        taken("b.json", b__json=b"[" + ROW + b"]"),
    ),
    "import: an array that goes on": (
        taken("b.json", b__json=b"[" + ROW + b"]" + ROW),
        "goes on with '{' after its end; a file with one object a line is named .jsonl",
        taken("b.json", b__json=b"[" + ROW + b"," + ROW + b"]"),
    ),
    "import: a packed file that was cut off": (
        taken("b.jsonl.gz", b__jsonl__gz=gzip.compress(LINE)[:-9]),
        "b.jsonl.gz cannot be read",
        taken("b.jsonl.gz", b__jsonl__gz=gzip.compress(LINE)),
    ),
    "import: text called parquet": (
        taken("b.parquet", b__parquet=b"PAR1 hello"),
        "b.parquet cannot be read as parquet after row 0",
        taken("b.jsonl", b__jsonl=LINE),
    ),
    "import: a rejected row in a strict run": (
        taken("b.jsonl --strict", b__jsonl=b"[]\n"),
        "1 row rejected (1 format); see out.rejects.jsonl",
        taken("b.jsonl --strict", b__jsonl=LINE),
    ),
    "import: an output in a folder that is not there": (
        Typed(import_, "a.jsonl -o nowhere/out.jsonl"),
        "the folder nowhere is not there",
        Typed(import_, "a.jsonl -o in/out.jsonl"),
    ),
    "filter: a file that breaks off": (
        Typed(filter, "b.jsonl.gz -o out.jsonl", {"b.jsonl.gz": gzip.compress(LINE)[:-9]}),
        "b.jsonl.gz: cannot be read after line",
        Typed(filter, "b.jsonl.gz -o out.jsonl", {"b.jsonl.gz": gzip.compress(LINE)}),
    ),
    "filter: what is no record, in a strict run": (
        filtered("--strict", b__jsonl=b"{}\n"),
        "1 conversation removed",
        filtered("--strict", b__jsonl=LINE),
    ),
    "audit: what is no record": (
        audited("--model MODEL", b__jsonl=b"{}\n"),
        "REFUSED 1 conversation, record: not a conversation record",
        audited("--model MODEL", b__jsonl=LINE),
    ),
    # Checkpoints.
    "audit: a model that is not there": (
        audited("--model nowhere"),
        "Directory 'nowhere' does not exist",
        audited("--model MODEL"),
    ),
    "audit: a model without a tokenizer": (
        Typed(audit, "a.jsonl --model in --no-drift"),
        "in",
        audited("--model MODEL"),
    ),
    "audit: settings that are no JSON": (
        Typed(audit, "a.jsonl --model MODEL --no-drift", {"MODEL/config.json": b"{"}),
        "MODEL/config.json cannot be understood",
        Typed(
            audit,
            "a.jsonl --model MODEL --no-drift",
            {"MODEL/config.json": b'{"max_position_embeddings": 99}'},
        ),
    ),
    "audit: a model without a length": (
        Typed(audit, "a.jsonl --model MODEL --no-drift", {"MODEL/config.json": b"{}"}),
        "MODEL does not say how many positions the model has; give --max-length",
        Typed(audit, "a.jsonl --model MODEL --no-drift --max-length 99", {"MODEL/config.json": b"{}"}),
    ),
    "audit: a template that is none": (
        audited("--model MODEL --chat-template t.jinja", **{"t.jinja": b"{% for %}", "b.jsonl": LINE}),
        "the chat template cannot be understood",
        audited(
            "--model MODEL --chat-template t.jinja",
            **{"t.jinja": checkpoints.SOUND.encode(), "b.jsonl": LINE},
        ),
    ),
    # Options.
    "import: a format that nobody knows": (
        taken("a.jsonl --format alpaca"),
        "format must be one of agentlm, adp",
        taken("a.jsonl --format agentlm"),
    ),
    "import: no source": (
        taken("a.jsonl --source ''"),
        "source, task and tags must not be empty",
        taken("a.jsonl --source s"),
    ),
    "import: no tag": (taken("a.jsonl --tag ''"), "source, task and tags must not", taken("a.jsonl --tag t")),
    "import: no task": (
        taken("a.jsonl --task ''"),
        "source, task and tags must not",
        taken("a.jsonl --task t"),
    ),
    "filter: a reward of no task": (
        filtered("--min-reward =1"),
        "'=1' names no task; it is TASK=REWARD",
        filtered("--min-reward a=1"),
    ),
    "filter: a reward in words": (
        filtered("--min-reward a=much"),
        "'a=much' is not REWARD or TASK=REWARD",
        filtered("--min-reward a=off"),
    ),
    "filter: a reward beyond all": (
        filtered("--min-reward inf"),
        "the least reward of every task must be a number; it is inf",
        filtered("--min-reward 1e9"),
    ),
    "filter: a reward that is no number": (
        filtered("--min-reward a=nan"),
        "the least reward of a must be a number; it is nan",
        filtered("--min-reward a=0"),
    ),
    "filter: a form that nobody knows": (
        filtered("--form a=walk"),
        "'a=walk' is not TASK=FORM with a form among",
        filtered("--form a=step"),
    ),
    "filter: a form of no task": (
        filtered("--form =step"),
        "'=step' is not TASK=FORM",
        filtered("--form a=none"),
    ),
    "filter: once is no repetition": (
        filtered("--max-repeats 1"),
        "max_repeats must be 0 (off) or at least 2; it is 1",
        filtered("--max-repeats 2"),
    ),
    "filter: nor of text": (
        filtered("--max-text-repeats 1"),
        "max_text_repeats must be 0 (off) or at least 2; it is 1",
        filtered("--max-text-repeats 0"),
    ),
    "filter: turns below nothing": (
        filtered("--min-turns -1"),
        "min_turns must be at least 0; it is -1",
        filtered("--min-turns 0"),
    ),
    "filter: no turns at most": (
        filtered("--max-turns 0"),
        "max_turns must be at least 1; it is 0",
        filtered("--max-turns 1"),
    ),
    "filter: fewer at most than at least": (
        filtered("--min-turns 3 --max-turns 2"),
        "max_turns is 2, below min_turns, which is 3",
        filtered("--min-turns 2 --max-turns 2"),
    ),
    "filter: no characters": (
        filtered("--max-chars 0"),
        "max_chars must be at least 1; it is 0",
        filtered("--max-chars 1"),
    ),
    "filter: items below nothing": (
        filtered("--per-item -1"),
        "per_item must be at least 0; it is -1",
        filtered("--per-item 0"),
    ),
    "filter: tokens of no model": (
        filtered("--max-tokens 9"),
        "max_tokens needs a model, whose tokenizer counts; give one",
        filtered("--max-tokens 9 --model MODEL"),
    ),
    "filter: poison anywhere": (filtered("--poison here"), "'here' is not one of", filtered("--poison off")),
    "audit: a length of one": (
        audited("--model MODEL --max-length 1"),
        "max_length must be at least 2; it is 1",
        audited("--model MODEL --max-length 12"),
    ),
    "audit: a reason that nobody knows": (
        audited("--model MODEL --allow mask"),
        "a reason must be one of record, template",
        audited("--model MODEL --allow leak"),
    ),
    "audit: lines in words": (
        audited("--model MODEL --lines one"),
        "'one' is not a list of line numbers such as 3,17",
        audited("--model MODEL --lines 1"),
    ),
    "stats: a picture of another kind": (
        Typed(stats, "a.jsonl --plot p.txt"),
        "a plot is written to a file that ends in .png, .svg, .pdf; given: p.txt",
        Typed(stats, "a.jsonl --plot p.svg"),
    ),
    "stats: a picture in a folder that is not there": (
        Typed(stats, "a.jsonl --plot nowhere/p.svg"),
        "the folder nowhere is not there; make it first",
        Typed(stats, "a.jsonl --plot in/p.svg"),
    ),
    "stats: a picture of nothing": (
        Typed(stats, "b.jsonl --plot p.svg", {"b.jsonl": b""}),
        "there is no conversation to draw",
        Typed(stats, "b.jsonl --plot p.svg", {"b.jsonl": LINE}),
    ),
    "stats: a template of no model": (
        Typed(stats, "a.jsonl --chat-template t.jinja", {"t.jinja": checkpoints.SOUND.encode()}),
        "--chat-template needs --model",
        Typed(
            stats, "a.jsonl --model MODEL --chat-template t.jinja", {"t.jinja": checkpoints.SOUND.encode()}
        ),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").mkdir()
    for file in model.iterdir():
        (tmp_path / "MODEL" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_and_what_nearly_equal_passes(case: str, folder: Path) -> None:
    bad, told, good = REFUSALS[case]
    if "picture" in case:
        pytest.importorskip("matplotlib")
    if "parquet" in case:
        pytest.importorskip("pyarrow")
    refused = bad.run(folder)
    assert refused.exit_code != 0
    assert isinstance(refused.exception, AgentLMError | SystemExit), refused.exception
    assert told in refused.output + str(refused.exception)
    if refused.exit_code == 1 and isinstance(refused.exception, AgentLMError):
        assert not (folder / "out.jsonl").exists()
    done = good.run(folder)
    assert done.exit_code == 0, (done.output, done.exception)
