"""The rules of scoring and reading, and AgentBench's window, on cases worked out by hand."""

import hashlib

import pytest

from agentlm_evals.errors import DataError
from agentlm_evals.model import Message
from agentlm_evals.protocols.window import stripped_window
from agentlm_evals.tasks.database.item import read_table
from agentlm_evals.tasks.database.rules import feedback, hash_text, read_list, read_reply, same, table_hash


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_the_hash_of_a_table_ignores_the_order_of_rows_and_skips_nulls():
    a, b = md5("1,x")[:5], md5("2")[:5]
    assert table_hash([("1", "x"), ("2", None)]) == md5(",".join(sorted((a, b))))
    assert table_hash([("2", None), ("1", "x")]) == table_hash([("1", "x"), ("2", None)])
    assert hash_text("ab") == "[('ab',)]"


@pytest.mark.parametrize(
    ("text", "ours", "published"),
    [
        ('["A", "B"]', ["A", "B"], ["A", "B"]),
        ("['A', 3]", ["A", "3"], ["A", 3]),
        (" 3", ["3"], [" 3"]),
        ("plain words", ["plain words"], ["plain words"]),
        ("('x',)", ["x"], ["x"]),
        ('"ab"', ["ab"], ["a", "b"]),
        ("[__import__('os').getpid()]", ["[__import__('os').getpid()]"], ["[__import__('os').getpid()]"]),
        ("[" * 5000, ["[" * 5000], ["[" * 5000]),
        ("9" * 200_000, ["9" * 200_000], ["9" * 200_000]),
        ("9" * 5000, ["9" * 5000], ["9" * 5000]),
        ("true", ["True"], ["true"]),
        ("[[1], 2]", ["[1]", "2"], [[1], 2]),
    ],
)
def test_an_answer_is_read_as_a_literal_and_never_run(text, ours, published):
    assert read_list(text, published=False) == ours
    assert read_list(text, published=True) == published


@pytest.mark.parametrize(
    ("given", "label", "is_same"),
    [
        (["3"], ["3.0"], True),
        (["1e3"], ["1000"], True),
        (["a"], ["A"], False),
        (["a", "b"], ["b", "a"], True),
        (["a", "a"], ["a"], True),
        (["a"], ["a", "b"], False),
        ([], ["none"], False),
        ([1, 2], ["1", "2"], False),
        ([1], ["1.0"], True),
        ([[1], 2], ["1", "2"], False),
    ],
)
def test_answers_compare_as_numbers_or_sets(given, label, is_same):
    assert same(given, label) is is_same


def test_only_the_first_block_of_sql_counts_and_becomes_one_line():
    text = "x\nAction: Operation\n```sql\nSELECT 1\nFROM t\n```\n```sql\nDROP TABLE t\n```"
    assert read_reply(text, published=True).sql == "SELECT 1 FROM t"


def test_feedback_is_cut_at_800_characters():
    assert feedback("a" * 800) == "a" * 800
    assert feedback("a" * 801) == "a" * 800 + "[TRUNCATED]"


def table(columns: list[str], rows: list[list[str]]) -> dict:
    return {"table_name": "t", "table_info": {"columns": [{"name": c} for c in columns], "rows": rows}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (table(["a", "A"], []), "a column twice"),
        (table(["a", ""], []), "a column without a name"),
        (table(["a", "b"], [["1"]]), "row 0 has 1 values for 2 columns"),
        ({"table_name": "t"}, "lacks 'table_info'"),
    ],
)
def test_a_table_that_no_engine_loads_is_refused_by_what_is_wrong(body, message):
    with pytest.raises(DataError, match=message):
        read_table(body, repair=False)


def test_a_repaired_table_has_a_name_for_each_column_and_a_value_for_each_name():
    found = read_table(table(["a", "A", ""], [["1"], ["1", "2", "3", "4"]]), repair=True)
    assert found.columns == ("a", "A_2", "column_3")
    assert found.rows == (("1", "", ""), ("1", "2", "3"))


def test_the_window_keeps_the_first_message_and_the_newest_and_says_what_is_missing():
    long = "1" * 1500
    dialogue = [
        Message("user", "task"),
        Message("assistant", long),
        Message("user", long),
        Message("assistant", long),
    ]
    shown = stripped_window([*dialogue, Message("user", "now")])
    # 3,002 segments with the two newest of the long ones; the user's, which would come first, goes as well.
    assert [m.content for m in shown] == ["task\n\n[NOTICE] 2 messages are omitted.", long, "now"]
    assert stripped_window(dialogue[:2]) == dialogue[:2]


def test_messages_are_shown_without_blanks_round_them():
    assert [m.content for m in stripped_window([Message("user", "\na b\n")])] == ["a b"]
