"""Evaluation sets as files."""

import gzip
import json
from pathlib import Path

import pytest

from agentlm.tuning.contamination import ContaminationError, read_samples


def test_named_fields_hold_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    row = {"task_id": "T/0", "question": "Which?", "choices": ["one", "two"], "extra": {"note": "n"}}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({"question": "Why?"}) + "\n")
    samples = read_samples(path, ["question", "choices", "extra.note"])
    assert [sample.texts for sample in samples] == [("Which?", "one", "two", "n"), ("Why?",)]
    assert [sample.id for sample in samples] == ["T/0", "line 3"]
    assert samples[0].set == "set.jsonl"


def test_conversations_and_lists_and_lines_are_understood(tmp_path: Path) -> None:
    chat = {
        "id": "c",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}],
    }
    (tmp_path / "set.json").write_text(json.dumps([chat, {"id": "d", "text": "Ho"}]))
    assert [sample.texts for sample in read_samples(tmp_path / "set.json")] == [("Hi",), ("Ho",)]
    (tmp_path / "set.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\n\n two\n"))
    samples = read_samples(tmp_path / "set.txt.gz")
    assert [(sample.id, sample.texts) for sample in samples] == [("line 1", ("one",)), ("line 3", (" two",))]


@pytest.mark.parametrize(
    ("name", "content", "fields", "says"),
    [
        (
            "set.jsonl",
            '{"question": "a"}\n',
            (),
            "set.jsonl:1 has no `messages` or `text` or `content` (its keys: `question`)",
        ),
        ("set.jsonl", '{"question": "a"}\n', ("answer",), "set.jsonl:1 has no `answer`"),
        ("set.jsonl", '{"text": "a"}\n[]\n', (), "set.jsonl:2 must be an object; it is a list"),
        ("set.jsonl", '{"text"\n', (), "set.jsonl:1 is not JSON"),
        ("set.jsonl", "\n", (), "holds no sample"),
        ("set.json", '{"text": "a"}', (), "must hold a list of objects; it holds a dict"),
        ("set.txt", "a\n", ("text",), "is read as text, one sample a line, and has no fields"),
        ("set.txt.gz", "a\n", (), "set.txt.gz cannot be read"),
    ],
)
def test_a_set_that_cannot_be_understood_is_refused(
    tmp_path: Path, name: str, content: str, fields: tuple[str, ...], says: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ContaminationError) as error:
        read_samples(tmp_path / name, fields)
    assert says in str(error.value)
