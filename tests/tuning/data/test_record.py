"""The conversation record: what is taken, what is refused and how, and files that are whole or not there."""

import gzip
import json
import os
import stat
from pathlib import Path

import pytest

from agentlm.tuning import line_reading, record
from agentlm.tuning.record import Conversation, Message, RecordError, Writer

GOOD = {
    "id": "1",
    "source": "s",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}


def line(**changes):
    return json.dumps({**GOOD, **changes})


def with_message(**fields):
    return line(messages=[{"role": "user", "content": "Hi"}, fields])


def test_a_record_survives_writing_and_reading():
    whole = Conversation(
        id="1",
        source="s",
        task="t",
        item="i",
        reward=0.5,
        tags=("a", "b"),
        messages=(
            Message("system", "Sÿstem"),
            Message("user", "Hi"),
            Message("assistant", "Ok.", loss=False),
            Message("user", "Go"),
            Message("assistant", None, tool_calls=(CALL,)),
            Message("tool", "7", tool_call_id="c", name="f"),
            Message("assistant", "Seven."),
        ),
        tools=({"type": "function", "function": {"name": "f"}},),
        meta={"k": [1, None]},
    )  # fmt: skip
    assert record.parse(whole.dump()) == whole
    assert json.loads(whole.messages_json())[2] == {"role": "assistant", "content": "Ok.", "loss": False}


def test_what_has_its_default_is_not_written():
    assert json.loads(record.parse(line()).dump()) == GOOD


def test_only_what_the_assistant_says_and_may_be_learnt_is_trained():
    trained = [
        message.trained
        for message in (
            Message("user", "a"),
            Message("assistant", "b"),
            Message("assistant", "c", loss=False),
        )
    ]
    assert trained == [False, True, False]


REFUSED = [
    ("{", "not JSON", line()),
    ('"text"', "a record must be an object", line()),
    (line(reward=float("nan")), "NaN is no JSON number", line(reward=None)),
    (line(meta={"a": 1}).replace("1}", "1e999}"), "1e999 is too large for a number", line(meta={"a": 1e99})),
    ('{"id": "1", "source": "s"}', "messages missing", line()),
    (line(rewards=1), "unknown key 'rewards'; a record may have id, source, task", line(reward=1)),
    (line(id=""), "id must not be empty", line(id=" ")),
    (line(id=3), "id must be text; it is 3", line(id="3")),
    (line(source=""), "source must not be empty", line(source="x")),
    (line(reward=True), "reward must be a number or null; it is True", line(reward=1)),
    (line(reward=10**400), "reward must be a finite number", line(reward=10**300)),
    (line(task=1), "task must be text; it is 1", line(task="1")),
    (line(item=[]), "item must be text; it is []", line(item=None)),
    (line(tags="a"), "tags must be a list", line(tags=["a"])),
    (line(tags=[1]), "a tag must be text; it is 1", line(tags=[])),
    (line(tools={}), "tools must be a list; it is {}", line(tools=[])),
    (line(tools=["f"]), "a tool must be an object; it is 'f'", line(tools=[{"name": "f"}])),
    (line(meta=[]), "meta must be an object", line(meta={})),
    (line(messages=[]), "messages must not be empty", line()),
    (line(messages={}), "messages must be a list; it is {}", line()),
    (line(messages=["Hi"]), "messages[0]: a message must be an object", line()),
    (
        with_message(content="x"),
        "messages[1]: role missing; it is one of",
        with_message(role="user", content="x"),
    ),
    (
        with_message(role="human", content="x"),
        "messages[1]: role must be one of system, user, assistant, tool",
        with_message(role="user", content="x"),
    ),
    (
        with_message(role="assistant"),
        "messages[1]: content may be null only beside tool_calls",
        with_message(role="assistant", tool_calls=[CALL]),
    ),
    (
        with_message(role="assistant", content=["x"]),
        "messages[1]: content must be text",
        with_message(role="assistant", content="x"),
    ),
    (
        with_message(role="assistant", content="x", loss=None),
        "messages[1]: loss must be true or false; it is None",
        with_message(role="assistant", content="x", loss=False),
    ),
    (
        with_message(role="user", content="x", loss=True),
        "loss belongs to an assistant's message; this one is the user",
        with_message(role="assistant", content="x", loss=True),
    ),
    (
        with_message(role="user", content="x", weight=1),
        "unknown key 'weight'",
        with_message(role="user", content="x", name="Ann"),
    ),
    (
        with_message(role="user", content="x", tool_call_id="1"),
        "tool_call_id belongs to a tool's message",
        with_message(role="tool", content="x", tool_call_id="1"),
    ),
    (
        with_message(role="user", content="x", tool_calls=[CALL]),
        "tool_calls belong to an assistant's message; this one is the user",
        with_message(role="assistant", content="x", tool_calls=[CALL]),
    ),
    (
        with_message(role="assistant", content="x", tool_calls=[{"name": "f"}]),
        "tool_calls[0] must be",
        with_message(role="assistant", content="x", tool_calls=[{"function": {"name": "f"}}]),
    ),
    (
        with_message(role="assistant", content="x", tool_calls=[{"function": {"name": "f", "arguments": 3}}]),
        "arguments must be an object, or its JSON as text",
        with_message(
            role="assistant", content="x", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]
        ),
    ),
    (
        with_message(role="assistant", content="\ud83d"),
        "holds what JSON cannot",
        with_message(role="assistant", content="\ud83d\ude00"),
    ),
]


@pytest.mark.parametrize(("bad", "said", "good"), REFUSED, ids=[said[:40] for _, said, _ in REFUSED])
def test_what_is_no_record_is_refused_with_place_and_reason_and_what_nearly_equal_passes(bad, said, good):
    with pytest.raises(RecordError) as refused:
        record.parse(bad)
    assert said in str(refused.value)
    assert record.parse(good).messages


def test_reading_names_file_and_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(f"{line()}\n\n{line(id='2')}\n{{}}\n")
    rows = record.read(file)
    assert [(number, row.id) for number, row in (next(rows), next(rows))] == [(1, "1"), (3, "2")]
    with pytest.raises(RecordError, match=r"a\.jsonl:4: id and source and messages missing"):
        next(rows)


def test_rows_that_are_no_records_come_with_their_text(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line().encode() + b"\nbroken\n\xff\n" + line(id="2").encode())
    rows = list(record.read_rows(file))
    assert [(number, isinstance(row, RecordError)) for number, _, row in rows] == [
        (1, False), (2, True), (3, True), (4, False),
    ]  # fmt: skip
    assert rows[1][1] == "broken"


def test_a_line_beyond_any_record_is_told_and_passed_over(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    size = len(line().encode())
    file.write_text(
        f"{line(meta={'a': 'x' * 5000})}\n{line()}\n{line(id='10')}\n{line(meta={'a': 'x' * 1400})}"
    )
    monkeypatch.setattr(line_reading, "LONGEST_LINE", size)
    rows = list(record.read_rows(file))
    assert [(number, isinstance(row, RecordError)) for number, _, row in rows] == [
        (1, True), (2, False), (3, True), (4, True),
    ]  # fmt: skip
    assert str(rows[0][2]) == f"the line is longer than {size} bytes: is the file JSON lines?"
    assert len(rows[3][1]) <= 1000


def test_compressed_files_are_read_and_written(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    with Writer(file) as writer:
        writer.add(record.parse(line()))
    assert gzip.decompress(file.read_bytes()).decode() == line() + "\n"
    assert [row.id for _, row in record.read(file)] == ["1"]
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(RecordError, match="cannot be read after line"):
        list(record.read(file))


def test_a_file_is_whole_or_not_there(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("before\n")

    def broken():
        with Writer(file) as writer:
            writer.add(record.parse(line()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert file.read_text() == "before\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    with Writer(file) as writer:
        writer.add(record.parse(line()))
    assert writer.lines == 1
    assert file.read_text() == line() + "\n"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_a_folder_that_is_missing_is_named(tmp_path):
    with (
        pytest.raises(RecordError, match=r"the folder .*nowhere is not there"),
        Writer(tmp_path / "nowhere" / "a.jsonl"),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    class Full(Writer):
        def __enter__(self):
            super().__enter__()
            self._raw.close()
            self._raw = self._file = Path("/dev/full").open("wb")
            return self

    with (
        pytest.raises(OSError, match=r"No space left on device; nothing was written: .*a\.jsonl"),
        Full(tmp_path / "a.jsonl") as writer,
    ):
        writer.add(record.parse(line()))
    assert list(tmp_path.iterdir()) == []
