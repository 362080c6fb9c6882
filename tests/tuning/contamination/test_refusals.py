"""Every refusal of `agentlm data contamination`: files and flags that trigger it, and nearly equal ones that pass."""

import gzip
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentlm._engine import ContaminationScan
from agentlm.cli.data.contamination import command
from agentlm.errors import AgentLMError
from agentlm.model.random_tokenizer import write_tokenizer
from agentlm.tuning.contamination import ContaminationError, Settings

DATA = b'{"text": "one two three"}\n'
SET = b'{"text": "four five six"}\n'


@dataclass(frozen=True)
class Typed:
    """What is typed after `agentlm data contamination`, in a folder with data.jsonl, set.jsonl and these files."""

    words: str = "data.jsonl --against set.jsonl"
    files: Mapping[str, bytes] = field(default_factory=dict)

    def run(self, folder: Path) -> Result:
        for name, content in {"data.jsonl": DATA, "set.jsonl": SET, **self.files}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return CliRunner().invoke(command, shlex.split(self.words))


def against(name: str, content: bytes, more: str = "") -> Typed:
    return Typed(f"data.jsonl --against {name} {more}", {name: content})


def of(name: str, content: bytes, more: str = "") -> Typed:
    return Typed(f"{name} --against set.jsonl {more}", {name: content})


def flags(words: str) -> Typed:
    return Typed(f"data.jsonl --against set.jsonl {words}")


REFUSALS = {
    # The evaluation set.
    "a set that is not there": (
        flags("--against nowhere.jsonl"),
        "'nowhere.jsonl' does not exist",
        Typed(),
    ),
    "a set without a sample": (
        against("s.jsonl", b"\n"),
        "s.jsonl holds no sample",
        against("s.jsonl", b'\n{"text": "a"}\n'),
    ),
    "a set that is no JSON": (
        against("s.jsonl", b'{"text"\n'),
        "s.jsonl:1 is not JSON",
        against("s.jsonl", b'{"text": ""}\n'),
    ),
    "a row that is no object": (
        against("s.jsonl", b'{"text": "a"}\n["b"]\n'),
        "s.jsonl:2 must be an object; it is a list",
        against("s.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n'),
    ),
    "a row without text": (
        against("s.jsonl", b'{"question": "a"}\n'),
        "s.jsonl:1 has no `messages` or `text` or `content` (its keys: `question`); name the field with --field",
        against("s.jsonl", b'{"question": "a"}\n', "--field question"),
    ),
    "a row without the field": (
        against("s.jsonl", b'{"q": {"text": "a"}}\n', "--field q.body"),
        "s.jsonl:1 has no `q.body`",
        against("s.jsonl", b'{"q": {"text": "a"}}\n', "--field q.text"),
    ),
    "an array that is none": (
        against("s.json", b'{"text": "a"}'),
        "s.json must hold a list of objects; it holds a dict",
        against("s.json", b'[{"text": "a"}]'),
    ),
    "lines called an array": (
        against("s.json", b'{"text": "a"}\n{"text": "b"}\n'),
        "a file with one object a line is named .jsonl",
        against("s.jsonl", b'{"text": "a"}\n{"text": "b"}\n'),
    ),
    "fields of running text": (
        against("s.txt", b"a\n", "--field text"),
        "s.txt is read as text, one sample a line, and has no fields",
        against("s.txt", b"a\n"),
    ),
    "a packed set that is not": (
        against("s.jsonl.gz", SET),
        "s.jsonl.gz cannot be read",
        against("s.jsonl.gz", gzip.compress(SET)),
    ),
    "a packed set that was cut off": (
        against("s.jsonl.gz", gzip.compress(SET)[:-9]),
        "s.jsonl.gz cannot be read",
        against("s.jsonl.gz", gzip.compress(SET)),
    ),
    "a set of other bytes": (
        against("s.txt", b"caf\xe9\n"),
        "s.txt cannot be read",
        against("s.txt", "café\n".encode()),
    ),
    "a set twice": (
        flags("--against folder/../set.jsonl"),
        "folder/../set.jsonl is named twice among the evaluation sets",
        Typed("data.jsonl --against set.jsonl --against s.jsonl", {"s.jsonl": SET}),
    ),
    # The training data.
    "data twice": (
        Typed("folder folder/a.jsonl --against set.jsonl", {"folder/a.jsonl": DATA}),
        "folder/a.jsonl is named twice among the training data",
        Typed("folder data.jsonl --against set.jsonl", {"folder/a.jsonl": DATA}),
    ),
    "data that is not there": (
        Typed("nowhere.jsonl --against set.jsonl"),
        "'nowhere.jsonl' does not exist",
        Typed(),
    ),
    "a folder without a file": (
        Typed("folder --against set.jsonl", {"folder/a.bin": DATA}),
        "folder holds no file named .jsonl, .txt, .text, .md",
        Typed("folder --against set.jsonl", {"folder/a.bin": DATA, "folder/b.md": b"words\n"}),
    ),
    "an array of data": (
        of("d.json", b"[]"),
        "turn it into records first: `agentlm data import`",
        of("d.json", DATA, "--form jsonl"),
    ),
    "packed data": (of("d.jsonl.gz", gzip.compress(DATA)), "unpack it first", of("d.jsonl", DATA)),
    "data of another name": (
        of("d.csv", b"a,b\n"),
        "say what it is with --form",
        of("d.csv", b"a,b\n", "--form text"),
    ),
    "a line that is no JSON": (
        of("d.jsonl", DATA + b'{"text"\n'),
        "d.jsonl:2 is not a JSON object",
        of("d.jsonl", DATA + b'{"text": ""}\n'),
    ),
    "a line that is no object": (
        of("d.jsonl", b'"text"\n'),
        "d.jsonl:1 is not a JSON object",
        of("d.jsonl", b'{"text": "text"}\n'),
    ),
    "a line without text": (
        of("d.jsonl", b'{"prompt": "a"}\n'),
        "d.jsonl:1 has neither `messages` nor `text`, `content` (its keys: `prompt`)",
        of("d.jsonl", b'{"prompt": "a"}\n', "--data-field prompt"),
    ),
    "a line of other bytes": (
        of("d.jsonl", b'{"text": "caf\xe9"}\n'),
        "d.jsonl:1 is not a JSON object",
        of("d.jsonl", '{"text": "café"}\n'.encode()),
    ),
    "running text of other bytes": (
        of("d.txt", b"one\ncaf\xe9\n"),
        "d.txt:2 is not UTF-8 text; convert the file first",
        of("d.txt", "one\ncafé\n".encode()),
    ),
    # The test.
    "an n-gram of one": (
        flags("--ngram 1"),
        "ngram is 1; it must lie between 2 and 1024",
        flags("--ngram 2"),
    ),
    "an n-gram of a book": (
        flags("--ngram 1025"),
        "ngram is 1025; it must lie between 2 and 1024",
        flags("--ngram 1024"),
    ),
    "a budget below nothing": (
        flags("--skip-budget -1"),
        "'--skip-budget': -1 is not in the range 0<=x<=256",
        flags("--skip-budget 0"),
    ),
    "a budget of all": (
        flags("--skip-budget 257"),
        "'--skip-budget': 257 is not in the range 0<=x<=256",
        flags("--skip-budget 256"),
    ),
    "threads below nothing": (
        flags("--threads -1"),
        "'--threads': -1 is not in the range 0<=x<=1024",
        flags("--threads 1"),
    ),
    "no overlaps": (
        flags("--overlaps 0"),
        "overlaps is 0; it must lie between 1 and 1000",
        flags("--overlaps 1"),
    ),
    "shared by more than all": (
        flags("--ignore-shared 101"),
        "101.0 is not in the range 0<=x<=100",
        flags("--ignore-shared 100"),
    ),
    "other tokens": (flags("--tokens letters"), "'letters' is not one of", flags("--tokens whitespace")),
    "another form": (flags("--form csv"), "'csv' is not one of", flags("--form jsonl")),
    "allowing more than all": (
        flags("--fail-above 101"),
        "101.0 is not in the range 0<=x<=100",
        flags("--fail-above 100"),
    ),
    "a model that is not there": (
        flags("--model nowhere"),
        "Directory 'nowhere' does not exist",
        flags("--model model"),
    ),
    "a model without a tokenizer": (flags("--model empty"), "empty", flags("--model model")),
    # What is written.
    "a page over the data": (
        flags("--html data.jsonl"),
        "data.jsonl is an input too",
        flags("--html data.html"),
    ),
    "two reports in one file": (
        flags("--html report --json report"),
        "report cannot hold two outputs",
        flags("--html report --json report.json"),
    ),
    "a page in a folder that is not there": (
        flags("--html nowhere/page.html"),
        "the folder nowhere is not there",
        flags("--html folder/page.html"),
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    write_tokenizer(made, 300, 4096)
    return made


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tokenizer)
    for name in ("empty", "folder"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_and_what_nearly_equal_passes(case: str, folder: Path) -> None:
    bad, told, good = REFUSALS[case]
    before = {
        "model",
        "empty",
        "folder",
        "data.jsonl",
        "set.jsonl",
        *(name.partition("/")[0] for name in bad.files),
    }
    refused = bad.run(folder)
    assert refused.exit_code != 0
    assert isinstance(refused.exception, AgentLMError | SystemExit), refused.exception
    assert told in refused.output or told in str(refused.exception)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "data.jsonl").read_bytes() == DATA
    done = good.run(folder)
    assert done.exit_code == 0, (done.output, done.exception)


def test_more_than_is_allowed_is_refused_and_as_much_is_not(folder: Path) -> None:
    text = b'{"text": "one two three four five six seven eight nine ten eleven twelve"}\n'
    leaked = {"data.jsonl": text, "set.jsonl": text + SET}
    assert Typed("data.jsonl --against set.jsonl --fail-above 50", leaked).run(folder).exit_code == 0
    refused = Typed("data.jsonl --against set.jsonl --fail-above 49.9", leaked).run(folder)
    assert refused.exit_code == 1
    assert "50.0 % of set.jsonl is not clean; 49.9 % are allowed" in refused.output


@pytest.mark.parametrize(
    ("bad", "told", "good"),
    [
        (
            {"tokens": "letters"},
            "tokens is 'letters'; it must be one of words, whitespace",
            {"tokens": "words"},
        ),
        (
            {"ignore_shared": 1.01},
            "ignore_shared is 1.01; it must lie between 0 and 1",
            {"ignore_shared": 1.0},
        ),
        ({"ignore_shared": float("nan")}, "ignore_shared is nan", {"ignore_shared": None}),
    ],
)
def test_settings_that_the_command_cannot_give_are_refused_too(
    bad: dict[str, object], told: str, good: dict[str, object]
) -> None:
    with pytest.raises(ContaminationError) as refused:
        Settings(**bad)  # type: ignore[arg-type]
    assert told in str(refused.value)
    Settings(**good)  # type: ignore[arg-type]


def test_the_extension_refuses_by_itself() -> None:
    made = ContaminationScan([["a b"], ["c"]], ngram=2, skip_budget=0)
    for call, told in (
        (
            lambda: ContaminationScan([["a"]], ngram=1, skip_budget=0),
            "ngram is 1; it must lie between 2 and 1024",
        ),
        (lambda: ContaminationScan([["a"]], ngram=2, skip_budget=257), "skip_budget is 257"),
        (lambda: ContaminationScan([["a"]], ngram=2, skip_budget=0, tokens="x"), 'tokens is "x"'),  # type: ignore[arg-type]
        (lambda: made.ignore_shared([0, 0], 1.5), "is 1.5; it must lie between 0 and 1"),
        (lambda: made.ignore_shared([0], 0.5), "1 sets were given for 2 samples"),
        (lambda: made.read([], fields=[], threads=0), "threads is 0; it must be at least 1"),
        (lambda: made.read([(Path("a"), "csv")], fields=[], threads=1), 'a form is "csv"'),
        (lambda: made.read([(Path("nowhere"), "text")], fields=[], threads=1), "cannot read nowhere"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            call()
    made.ignore_shared([0, 0], 1.0)
    assert made.read([], fields=[], threads=1) == (0, 0, 0)


def test_a_file_that_changes_meanwhile_is_refused(folder: Path) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    data = folder / "data.jsonl"
    for meanwhile, told in (("", None), ("x" * 40, "changed while it was scanned; scan it again")):
        data.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
        made = ContaminationScan([[text]], ngram=10, skip_budget=4)
        made.read([(data, "jsonl")], fields=[], threads=1)
        if meanwhile:
            data.write_text(json.dumps({"text": meanwhile}) + "\n", encoding="utf-8")
        if told is None:
            assert json.loads(made.report(1))[0]["contaminated"] == 12
        else:
            with pytest.raises(ValueError, match=told):
                made.report(1)
