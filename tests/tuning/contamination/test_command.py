"""`agentlm data contamination` as it is typed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentlm.cli.data.contamination import command

LEAKED = "A farmer sells 12 eggs in the morning and 30 eggs in the evening of every single day."
CLEAN = "How many of the seven shelves of the library are empty once all the atlases have been lent?"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    record = {
        "id": "r1",
        "source": "chats",
        "messages": [{"role": "user", "content": f"Solve this. {LEAKED}"}],
    }
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(record) + "\n")
    evaluation = tmp_path / "set.jsonl"
    rows = [{"id": f"q{number}", "question": text} for number, text in enumerate((LEAKED, CLEAN))]
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data, evaluation


def test_a_table_and_both_reports_are_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, evaluation = files
    html, reported = tmp_path / "report.html", tmp_path / "report.json"
    result = run(data, "--against", evaluation, "--field", "question", "--html", html, "--json", reported)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if line.startswith("set.jsonl"))
    assert row.split("  ")[-1].strip() == "0"
    assert row.count("1 (50.0 %)") == 4
    assert f"100.0 %  set.jsonl q0: {data}:1  A farmer sells" in result.output
    values = json.loads(reported.read_text())
    assert values["test"] == {"tokens": "words", "ngram": 10, "skip_budget": 4, "ignore_shared": None}
    assert values["sets"][0]["buckets"] == {"clean": 1, "not clean": 1, "not dirty": 1, "dirty": 1}
    assert [sample["id"] for sample in values["samples"]] == ["q0"]
    assert "<mark>A farmer sells 12 eggs" in html.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "data.jsonl",
        "report.html",
        "report.json",
        "set.jsonl",
    ]


def test_sets_of_one_name_are_told_apart(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, evaluation = files
    others = []
    for folder, text in (("one", LEAKED), ("two", CLEAN)):
        (tmp_path / folder).mkdir()
        others.append(tmp_path / folder / "test.jsonl")
        others[-1].write_text(json.dumps({"question": text}) + "\n")
    result = run(data, "--field", "question", *(f"--against={path}" for path in (evaluation, *others)))
    assert result.exit_code == 0, result.output
    rows = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert {"set.jsonl", "one/test.jsonl", "two/test.jsonl"} <= rows.keys()
    assert "1 (100.0 %)" in rows["one/test.jsonl"]
    assert rows["one/test.jsonl"].split()[1] == rows["two/test.jsonl"].split()[1] == "1"
    assert "100.00 %" in rows["one/test.jsonl"]
    assert " 0.00 %" in rows["two/test.jsonl"]


def test_a_tasks_template_can_be_left_out_of_the_count(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, evaluation = files
    template = (
        "You answer questions about small sums. Think step by step and end with the number alone, please."
    )
    rows = [{"question": f"{template} {text}"} for text in (CLEAN, LEAKED)]
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"text": f"{template} What is one and one?"}
    data.write_text(data.read_text() + json.dumps(record) + "\n")
    arguments = (data, "--against", evaluation, "--field", "question", "--html", tmp_path / "report.html")
    plain = run(*arguments)
    assert "line 1" in plain.output
    result = run(*arguments, "--ignore-shared", 50)
    assert result.exit_code == 0, result.output
    assert "34 tokens did not count: more than 50 % of the samples hold them" in result.output
    assert "line 1" not in result.output
    assert "100.0 %  set.jsonl line 2" in result.output
    assert f"<span class='dim'>{template[:-1]}</span>" in (tmp_path / "report.html").read_text()


def test_more_than_is_allowed_fails(files: tuple[Path, Path]) -> None:
    data, evaluation = files
    arguments = (data, "--against", evaluation, "--field", "question")
    assert run(*arguments, "--fail-above", 50).exit_code == 0
    result = run(*arguments, "--fail-above", 49)
    assert result.exit_code == 1
    assert "50.0 % of set.jsonl is not clean; 49 % are allowed" in result.output
