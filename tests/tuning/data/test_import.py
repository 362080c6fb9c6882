"""Importing: each format's sample becomes the records it should, and each broken row is rejected with its reason."""

import io
import json
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm.tuning import record
from agentlm.tuning.data import formats, importing, json_stream, rows
from agentlm.tuning.data.errors import DataError, MissingExtraError
from agentlm.tuning.data.importing import ImportSettings
from agentlm.tuning.data.json_stream import array_rows

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def imported(tmp_path):
    """Imports files and gives the report, the records and the rejected rows."""

    def run(*files, **settings):
        output, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
        report = importing.run(files, output, rejects, ImportSettings(**settings))
        kept = [row for _, row in record.read(output)]
        assert len(kept) == report.taken
        return report, kept, [json.loads(line) for line in rejects.read_text().splitlines()]

    return run


def said(conversation):
    return [(message.role, message.content) for message in conversation.messages]


def test_agentinstruct_keeps_its_loss_flags(imported):
    report, kept, rejected = imported(SAMPLES / "agentinstruct.json")
    assert (dict(report.formats), rejected) == ({"agentinstruct": 3}, [])
    assert [(row.id, row.source, row.task, row.item) for row in kept] == [
        ("os_0", "agentinstruct", "os", "os_0"),
        ("db_tri_7", "agentinstruct", "db", "db_tri_7"),
        ("alfworld_3", "agentinstruct", "alfworld", "alfworld_3"),
    ]
    assert [message.trained for message in kept[0].messages] == [False, False, False, True, False, True]
    # The variant's names, and null on an answer: trained.
    assert [message.trained for message in kept[2].messages] == [False, False, False, True, False, True]


def test_agentinstruct_from_parquet_equals_json(imported, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = json.loads((SAMPLES / "agentinstruct.json").read_text())[:2]
    file = tmp_path / "agentinstruct.parquet"
    parquet.write_table(arrow.Table.from_pylist(table), file)
    _, from_parquet, _ = imported(file)
    _, from_json, _ = imported(SAMPLES / "agentinstruct.json")
    assert from_parquet == from_json[:2]


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow: pip install 'agentlm\[tune\]'"):
        list(rows.read(Path("a.parquet")))


def test_sharegpt_in_its_dialects(imported):
    report, kept, rejected = imported(SAMPLES / "sharegpt.jsonl", tags=("general",))
    assert (dict(report.formats), rejected) == ({"sharegpt": 7}, [])
    by_id = {row.id: row for row in kept}
    assert said(by_id["a"]) == [("user", "Name a river in France."), ("assistant", "The Loire.")]
    assert by_id["b"].tags == ("general", "model:gpt-4")
    assert [role for role, _ in said(by_id["7"])] == ["system", "user", "assistant"]
    assert [message.trained for message in by_id["sharegpt-4"].messages] == [False, False, False, True]
    assert said(by_id["d"])[0] == ("system", "Answer in one word.")
    assert by_id["e"].messages[3].content.startswith("<div")  # nothing is repaired that nobody asked for
    tools = by_id["f"]
    assert tools.tools[0]["function"]["name"] == "weather"
    assert tools.messages[1].tool_calls[0]["function"] == {"name": "weather", "arguments": {"town": "Ulm"}}
    assert (tools.messages[2].role, tools.messages[2].tool_call_id) == (
        "tool",
        tools.messages[1].tool_calls[0]["id"],
    )


def test_repair_and_html(imported):
    _, kept, _ = imported(SAMPLES / "sharegpt.jsonl", repair=True, html=True)
    assert said(next(row for row in kept if row.id == "e")) == [
        ("user", "List two fruits.\n\nIn Markdown."),
        ("assistant", "Two **fruits**:\n\n- plum\n- fig & date"),
    ]


def test_rejected_rows_are_kept_with_line_and_reason(imported):
    report, kept, rejected = imported(SAMPLES / "sharegpt-broken.jsonl")
    assert [row.id for row in kept] == ["good"]
    assert dict(report.rejected) == {"format": 5, "json": 1}
    details = {row["line"]: (row["reason"], row["detail"]) for row in rejected}
    expected = {
        2: ("format", "unknown speaker 'narrator'"),
        3: ("json", "not JSON"),
        4: ("format", "conversations is empty"),
        5: ("format", "conversations[0] must be text; it is 3"),
        6: ("format", "conversations[0]: loss is true on a turn of the user"),
        7: ("format", "in none of the formats"),
    }
    assert {
        line: (reason, detail.startswith(expected[line][1])) for line, (reason, detail) in details.items()
    } == {line: (reason, True) for line, (reason, _) in expected.items()}
    assert rejected[1]["row"].startswith('{"id": "cut"')


def test_half_a_character_is_rejected_and_kept_as_it_is(imported, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"conversations": [{"from": "human", "value": "\\ud83d"}, {"from": "gpt", "value": "x"}]}\n'
    )
    report, _, rejected = imported(file)
    assert report.taken == 0
    assert "holds what JSON cannot" in rejected[0]["detail"]
    assert rejected[0]["row"]["conversations"][0]["value"] == "\ud83d"


def test_a_loss_flag_hides_neither_system_nor_tools(imported, tmp_path):
    file = tmp_path / "a.jsonl"
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "loss": True}]
    file.write_text(
        json.dumps({"id": "x", "system": "Be kind.", "tools": [{"name": "f"}], "conversations": turns})
    )
    _, (row,), _ = imported(file)
    assert [message.role for message in row.messages] == ["system", "user", "assistant"]
    assert row.tools[0]["function"]["name"] == "f"


def test_openai_with_tools(imported):
    _, kept, rejected = imported(SAMPLES / "openai.jsonl")
    new, old = kept
    assert said(new)[:2] == [("system", "Use tools."), ("user", "Add 2 and 3.")]
    assert new.messages[2].tool_calls[0]["function"] == {"name": "add", "arguments": {"a": 2, "b": 3}}
    assert new.messages[3].tool_call_id == "call_1"
    assert new.tools[0]["function"]["name"] == "add"
    assert old.messages[1].tool_calls[0]["id"] == old.messages[2].tool_call_id
    assert [message.trained for message in old.messages] == [False, True, False, False]
    assert [(row["line"], "image_url" in row["detail"]) for row in rejected] == [(3, True)]


def test_agenttraj_says_task_and_item(imported):
    report, kept, _ = imported(SAMPLES / "agenttraj.json")
    assert dict(report.formats) == {"agenttraj": 2}
    assert [(row.task, row.item) for row in kept] == [
        ("webshop", "webshop_12"),
        ("alfworld", "pick_and_place_simple-Mug-None-Desk-301/trial_1"),
    ]
    assert [message.trained for message in kept[0].messages] == [False, False, False, True]


def test_agent_data_protocol(imported):
    report, kept, rejected = imported(SAMPLES / "adp.jsonl")
    assert dict(report.formats) == {"adp": 2}
    assert said(kept[0]) == [
        ("user", "Count the rows of boats."),
        ("assistant", "I count them.\n\n```mysql\nSELECT COUNT(*) FROM boats;\n```"),
        ("user", "12"),
        ("assistant", "There are 12."),
    ]
    assert (kept[0].reward, kept[0].meta) == (1.0, {"dataset": "boats", "reasoning_left_out": 1})
    call, page = kept[1].messages[1:3]
    assert call.tool_calls[0]["function"] == {"name": "goto", "arguments": {"url": "http://harbour.test"}}
    assert (page.role, page.name, page.tool_call_id) == ("tool", "goto", call.tool_calls[0]["id"])
    assert "picture" in rejected[0]["detail"]


def test_trajectories_in_instruction_files_become_turns(imported):
    _, (react, plain), _ = imported(SAMPLES / "instruction.jsonl")
    assert said(react) == [
        ("user", "Who wrote the log?"),
        ("assistant", "Thought: I search for the log.\nAction: search[log]"),
        ("user", "Observation: The log was written by Ada."),
        ("assistant", "Thought: It was Ada.\nAction: finish[Ada]"),
    ]
    assert react.reward == 1.0
    assert said(plain) == [
        ("user", "Shorten the text.\nIt was a long and windy day."),
        ("assistant", "A long, windy day."),
    ]


def test_our_own_records_pass_as_they_are(imported):
    _, kept, _ = imported(SAMPLES / "records.jsonl", tags=("new",))
    given = [row for _, row in record.read(SAMPLES / "records.jsonl")]
    assert [row.source for row in kept] == ["nano", "chats"]
    assert [row.tags for row in kept] == [("expert", "new"), ("new",)]
    assert [row.messages for row in kept] == [row.messages for row in given]
    _, renamed, _ = imported(SAMPLES / "records.jsonl", source="mine")
    assert {row.source for row in renamed} == {"mine"}


def test_a_forced_format_is_the_only_one_tried(imported):
    report, _, rejected = imported(SAMPLES / "records.jsonl", format="sharegpt")
    assert report.taken == 0
    assert rejected[0]["detail"].startswith("conversations or conversation or items must be a list of turns")
    with pytest.raises(DataError, match=r"format must be one of agentlm, adp, .*; it is 'alpaca'"):
        ImportSettings(format="alpaca")


def test_a_folder_is_all_its_files(imported):
    report, kept, _ = imported(SAMPLES)
    assert {"agentinstruct", "sharegpt", "openai", "agenttraj", "adp", "nano", "chats"} <= {
        row.source for row in kept
    }
    assert set(report.formats) >= {
        "agentlm",
        "adp",
        "agenttraj",
        "agentinstruct",
        "sharegpt",
        "openai",
        "instruction",
    }


@pytest.mark.parametrize(
    "text", ['{"data": [{"a": 1}, {"a": 2}], "n": 2}', '[{"a": 1},\n {"a": 2}\n]', '{"a": 1}\n{"a": 2}']
)
def test_the_three_shapes_of_json_files(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    assert [(row.line, row.value) for row in rows.read(file)] == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1}, {"a": ', r"a\.json: element 2 is not JSON \(the file ends inside it\)"),
        ('[{"a": 1} {"a": 2}]', r"a\.json: element 1: expected , or \], found '{'"),
        ('[{"a": 1}, {"a": 2]', r"a\.json: element 2 is not JSON"),
        ('["\\ud8', r"element 1 is not JSON"),
        (b'[{"a": "x"} \xff]', r"element 1: expected , or \]"),
        ('[{"a": 1}]\n[{"a": 2}]', r"a\.json: goes on with '\[' after its end; .* is named \.jsonl"),
        ("text", r"must begin with \[ or {; it begins with 't'"),
    ],
)
def test_a_broken_array_is_refused_with_its_element(tmp_path, text, said):
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said):
        list(rows.read(file))


@pytest.mark.parametrize(
    ("bad", "good", "said"),
    [
        (b'{"a": "caf\xe9"}', '{"a": "café"}'.encode(), 'not UTF-8: byte 0xe9 after \'{"a": "caf\''),
        (b'{"caf\xe9": 1}', '{"café": 1}'.encode(), "not UTF-8: byte 0xe9"),
        (b'{"a": NaN}', b'{"a": null}', "NaN is no JSON number"),
        (b'{"a": [-Infinity]}', b'{"a": [-1]}', "-Infinity is no JSON number"),
    ],
    ids=["value", "key", "NaN", "-Infinity"],
)
@pytest.mark.parametrize(
    "frame", [b'[{"a": 0}, %b, {"a": "\xc3\xa9"}]', b'{"n": NaN, "data": [{"a": 0}, %b, {"a": "\xc3\xa9"}]}']
)
def test_an_element_that_is_no_json_is_a_row_of_its_own_fault(tmp_path, frame, bad, good, said):
    file = tmp_path / "a.json"
    for piece in (1, json_stream.PIECE):
        with mock.patch.object(json_stream, "PIECE", piece):
            file.write_bytes(frame.replace(b"%b", bad))
            first, second, third = rows.read(file)
            assert (first.value, first.error, third.value, third.error) == ({"a": 0}, None, {"a": "é"}, None)
            assert str(second.error).startswith(said)
            file.write_bytes(frame.replace(b"%b", good))
            assert [row.error for row in rows.read(file)] == [None] * 3


def test_a_row_of_parquet_that_is_no_text_is_rejected_alone(imported, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    asked = arrow.array([b"Hi", b"caf\xe9", b"Bye"], arrow.binary()).view(arrow.string())
    table = arrow.table({"instruction": asked, "output": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    report, kept, rejected = imported(tmp_path / "a.parquet")
    assert [row.messages[0].content for row in kept] == ["Hi", "Bye"]
    assert (dict(report.rejected), rejected[0]["line"]) == ({"json": 1}, 2)
    assert rejected[0]["detail"].startswith("not UTF-8")


def test_a_row_that_is_no_utf8_is_rejected_with_what_it_holds(imported, tmp_path):
    file = tmp_path / "a.json"
    turns = '{"conversations": [{"from": "human", "value": "caf?"}, {"from": "gpt", "value": "x"}]}'
    file.write_bytes(f"[{turns}, {turns}]".encode().replace(b"?", b"\xe9", 1))
    report, _, rejected = imported(file)
    assert (report.taken, dict(report.rejected)) == (1, {"json": 1})
    assert (rejected[0]["line"], rejected[0]["row"]["conversations"][0]["value"]) == (1, "caf\udce9")


def test_a_broken_array_leaves_no_output(imported, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(
        json.dumps([{"id": "1", "source": "s", "messages": [{"role": "user", "content": "x"}]}])[:-1]
    )
    with pytest.raises(DataError):
        imported(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


@given(
    values=st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=5,
    ),
    piece=st.integers(1, 40),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_arrays_cut_anywhere_are_read_as_json_reads_them(values, piece, ascii_only, indent):
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
    file = io.BufferedReader(io.BytesIO(text))
    with mock.patch.object(json_stream, "PIECE", piece):
        read = [value for _, value, _ in array_rows(file, "a")]
    assert read == json.loads(text)


class Endless(io.RawIOBase):
    """An array of `count` elements that is never in memory as a whole."""

    def __init__(self, count):
        self.left = count
        self.rest = b"["

    def readable(self):
        return True

    def readinto(self, into):
        while len(self.rest) < len(into) and self.left:
            self.left -= 1
            element = json.dumps(
                {"text": 'wörd "quoted" ] } ' * 50, "left": self.left}, ensure_ascii=False
            ).encode()
            self.rest += element + (b"," if self.left else b"]")
        size = min(len(into), len(self.rest))
        into[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def test_an_array_is_never_in_memory_as_a_whole():
    file = io.BufferedReader(Endless(20_000))  # 20 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in array_rows(file, "a")) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_an_output_cannot_be_an_input(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("")
    with pytest.raises(DataError, match="is an input too"):
        importing.run([file], file, tmp_path / "r.jsonl", ImportSettings())
    with pytest.raises(DataError, match="is named twice"):
        importing.run([file, file], tmp_path / "o.jsonl", tmp_path / "r.jsonl", ImportSettings())


@pytest.mark.parametrize(
    ("file", "count", "name"),
    [
        ("trajectories/alfworld_336_state_action.json", 336, "state-action"),
        ("trajectories/fireact_multitask_multimethod.jsonl", 2063, "openai"),
        ("trajectories/fireact_hotpotqa_multimethod.json", 734, "instruction"),
        ("trajectories/llamafactory_glaive_toolcall_en_demo.json", 300, "sharegpt"),
        ("trajectories/llamafactory_alpaca_en_demo.json", 999, "instruction"),
        ("sharegpt/fastchat_dummy_conversation.json", 500, "sharegpt"),
    ],
)
def test_real_files_come_in_whole(imported, data_dir, file, count, name):
    report, _, rejected = imported(data_dir / file)
    assert (dict(report.formats), rejected) == ({name: count}, [])


def test_each_format_recognises_only_its_own_sample():
    for name, file in (("adp", "adp.jsonl"), ("openai", "openai.jsonl"), ("agenttraj", "agenttraj.json")):
        for row in rows.read(SAMPLES / file):
            assert next(each.name for each in formats.FORMATS if each.recognises(row.value)) == name
