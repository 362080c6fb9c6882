"""`agentlm data` and `agentlm data import` as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import agentlm

SAMPLES = Path(__file__).parent.parent / "tuning" / "data" / "samples"


def test_help_of_the_group_loads_nothing_heavy():
    code = (
        "import sys; from agentlm.cli import main\n"
        "sys.argv = ['agentlm', 'data', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'agentlm._engine', 'pyarrow') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    *listing, loaded = ran.stdout.splitlines()
    assert loaded == "[]"
    assert {"import", "contamination"} <= {line.split()[0] for line in listing if line.strip()}


def test_an_import_says_what_came_in_and_where_it_is(tmp_path):
    out = tmp_path / "all.jsonl"
    ran = agentlm(
        "data", "import", SAMPLES / "sharegpt.jsonl", "-o", out, "--source", "chats", "--tag", "general"
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"7 conversations to {out} (7 sharegpt)\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(row["source"], row["tags"][0]) for row in rows} == {("chats", "general")}
    assert (tmp_path / "all.rejects.jsonl").read_text() == ""


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_rejected_rows_fail_only_a_strict_import(tmp_path, strict, code):
    ran = agentlm("data", "import", SAMPLES / "sharegpt-broken.jsonl", "-o", tmp_path / "o.jsonl", *strict)
    assert ran.returncode == code
    assert f"6 rows rejected (5 format, 1 json); see {tmp_path / 'o.rejects.jsonl'}" in ran.stdout
    assert len((tmp_path / "o.rejects.jsonl").read_text().splitlines()) == 6
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 1


def test_standard_input_is_read(tmp_path):
    text = (SAMPLES / "sharegpt.jsonl").read_bytes()
    ran = agentlm("data", "import", "-", "-o", tmp_path / "o.jsonl", stdin=text)
    assert ran.stdout.startswith("7 conversations")


def test_a_broken_file_is_one_clear_line(tmp_path):
    (tmp_path / "a.json").write_text("[1, ")
    ran = agentlm("data", "import", tmp_path / "a.json", "-o", tmp_path / "o.jsonl")
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {tmp_path / 'a.json'}: element 2 is not JSON")
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "o.jsonl").exists()
