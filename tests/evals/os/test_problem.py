"""Reading problems and turns, and the named checkers, on cases worked out by hand."""

import pytest

from agentlm_evals.errors import DataError
from agentlm_evals.tasks.os.checkers import CHECKERS, ORIGINAL
from agentlm_evals.tasks.os.problem import Reader, Script, from_json, read_items
from agentlm_evals.tasks.os.replies import Turn, read_turn, show


@pytest.mark.parametrize(
    ("name", "answer", "reference", "passes"),
    [
        ("integer-match", " 12\n", "12\n", True),
        ("integer-match", "12.0", "12", False),
        ("integer-match", "twelve", "12", False),
        ("string-match", "a\r\nb", " a\nb\n", True),
        ("string-match", "A", "a", False),
        ("size-match", "12KB", "12288", True),
        ("size-match", "4.0K", "4096B", True),
        ("size-match", "1G", "1024M", True),
        ("size-match", "large", "1", False),
        ("containing", "it is 5 files", "5", True),
        ("containing", "5", "it is 5 files", False),
        ("in", "5", "it is 5 files", True),
    ],
)
def test_checkers(name, answer, reference, passes):
    assert CHECKERS[name](answer, reference) is passes


def test_the_original_reads_whole_sizes_by_the_first_unit_that_fits():
    assert ORIGINAL["size-match"]("12K", "12288")
    assert not ORIGINAL["size-match"]("12KB", "12KB")
    assert not ORIGINAL["size-match"]("4.0K", "4.0K")


@pytest.mark.parametrize(
    ("text", "ours", "published"),
    [
        ("Act: finish", Turn("finish"), Turn("finish")),
        ("Act: answer(a (b) c)", Turn("answer", "a (b) c"), Turn("answer", "a (b) c")),
        ("Act: Answer(3)", Turn("answer", "3"), Turn("answer", "3")),
        ("Act: answer 3", Turn(), Turn()),
        ("Act: finish\nAct: answer(1)", Turn("answer", "1"), Turn("answer", "1")),
        (
            "Act: bash\n\n```bash\nls\n```\n```bash\npwd\n```",
            Turn("bash", "ls\n\npwd"),
            Turn("bash", "ls\n\npwd"),
        ),
        ("Act: bash\n```\nls\n```", Turn("bash", "ls"), Turn("bash", "")),
        ("Act: bash\nls", Turn(), Turn("bash", "")),
        ("Act: answer(a\nb (c)\n)", Turn("answer", "a\nb (c)\n"), Turn()),
        ("Act: dance", Turn(), Turn()),
        ("", Turn(), Turn()),
    ],
)
def test_turns(text, ours, published):
    assert read_turn(text, published=False) == ours
    assert read_turn(text, published=True) == published


def test_output_is_shown_as_published():
    assert show("") == "The output of the OS is empty."
    assert show("a" * 800) == "The output of the OS:\n\n" + "a" * 800
    cut = "\n[truncated because the output is too long]"
    assert show("a" * 801) == "The output of the OS:\n\n" + "a" * 780 + cut


def read(item: dict, **kwargs):
    return Reader(kwargs.get("scripts"), kwargs.get("stand_ins", {}), frozenset(CHECKERS)).read(item)


def test_every_way_to_write_a_problem_is_read(tmp_path):
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "a.py").write_text("print(1)")
    item = {
        "description": "d",
        "create": {"init": ["true", {"language": "python", "file": "init/a.py"}, {"code": "false"}]},
        "start": "sleep 1 &",
        "evaluation": {"check": [None, {"file": "check/in.py"}, {"code": "exit 1"}], "example": "echo 1"},
    }
    problem = read(item, scripts=tmp_path)
    assert problem.init == (Script("bash", "true"), Script("python", "print(1)"), Script("bash", "false"))
    assert problem.check == (None, "in", Script("bash", "exit 1"))
    assert (problem.start, problem.example) == ("sleep 1 &", Script("bash", "echo 1"))
    assert from_json(problem.to_json()) == problem


def test_a_preparation_that_is_a_check_by_mistake_is_none():
    item = {"description": "d", "create": [None, {"file": "check/in.py"}], "evaluation": {"match": "x"}}
    assert read(item).init == ()
    assert read(item).match == {"answer": "x", "strip": True}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"evaluation": {"match": "x"}}, "description"),
        ({"description": "d", "evaluation": {}}, "check"),
        ({"description": "d", "evaluation": {"check": {"file": "nope.sh"}}}, "nope.sh"),
        ({"description": "d", "evaluation": {"check": {"language": "c", "code": ""}}}, "a script in c"),
    ],
)
def test_a_problem_that_cannot_be_read_says_why(item, message):
    with pytest.raises(DataError, match=message):
        read(item)


def test_a_script_runs_with_parameters_as_published():
    assert Script("bash", "x").argv([]) == ["bash", "-c", "x"]
    assert Script("bash", "x").argv(["a"]) == ["bash", "-c", "x", "--", "a"]
    assert Script("python", "x").argv(["a"]) == ["python3", "-c", "x", "a"]


def test_files_of_items(tmp_path):
    (tmp_path / "one.json").write_text('{"description": "d"}')
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "bad.json").write_text("{")
    assert read_items(tmp_path / "one.json") == [{"description": "d"}]
    assert len(read_items(tmp_path / "lines.jsonl")) == 2
    with pytest.raises(DataError, match=r"bad\.json cannot be read"):
        read_items(tmp_path / "bad.json")
