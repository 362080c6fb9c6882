"""The commands as a person types them."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentlm.cli import cli as agentlm
from agentlm.tuning import record as records
from agentlm_evals.cli import cli
from agentlm_evals.errors import EvalError
from tests.evals.server import said, scripted_server, tgi
from tests.server.live import Live, served


@pytest.fixture(scope="module")
def mock() -> Iterator[Live]:
    with served("--backend", "mock") as live:
        yield live


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AGENTLM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def call(*arguments: object, code: int = 0) -> str:
    result: Result = CliRunner().invoke(cli, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | EvalError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_every_task_of_the_table_is_listed() -> None:
    text = call("eval", "list")
    assert len(re.findall(r"^  \S", text, re.M)) == 16
    assert re.search(
        r"^  gsm8k +ready +GSM8K; needs nothing; 24 own samples; official: agentlm data fetch gsm8k",
        text,
        re.M,
    )
    assert re.search(r"^  webarena +not built", text, re.M)


@pytest.mark.parametrize(
    "arguments",
    [
        *[
            ("eval", "gsm8k", option)
            for option in ("--temperature", "--top-p", "--episode-seconds", "--timeout")
        ],
        ("data", "build", ".", "--out", "x", "--min-reward"),
    ],
    ids=" ".join,
)
def test_a_number_that_is_none_is_refused(arguments: tuple[str, ...]) -> None:
    text = call(*arguments, "nan", code=2)
    assert f"Invalid value for '{arguments[-1]}': nan is not in the range" in text


def test_the_doctor_plays_the_gold_path() -> None:
    assert "gsm8k: gold 3 of 3 right, do-nothing 0 right" in call("eval", "doctor", "gsm8k", "--limit", 3)


def test_a_run_its_report_and_its_transcripts(mock: Live, tmp_path: Path) -> None:
    text = call("eval", "gsm8k", "--port", mock.port, "--limit", 5, "--max-new-tokens", 8, "--out", "run")
    assert "GSM8K (own samples)" in text
    assert "general (agentlm): 0 of 4 tasks, so no Overall" in text
    report = json.loads(call("report", "run", "--format", "json"))
    (row,) = report["rows"]
    assert (row["task"], row["planned"], row["own_samples"], row["published"]) == ("gsm8k", 5, True, None)
    assert sum(row["outcomes"].values()) == 5
    page = tmp_path / "report.html"
    call("report", "run", "-f", "html", "-o", page)
    assert page.read_text().count("<svg") == 2
    assert "http" not in re.sub(
        r"http://www.w3.org|https?://(purl|creativecommons|matplotlib)\S+", "", page.read_text()
    )
    assert "| GSM8K (own samples) |" in call("report", "run", "-f", "markdown")
    from inspect_ai.log import read_eval_log

    log = read_eval_log("run/gsm8k/gsm8k.eval")
    assert log.samples is not None
    name = mock.call("GET", "/info")[1]["model_id"]
    assert (log.status, len(log.samples), log.eval.model) == ("success", 5, name)
    assert log.samples[0].messages[-1].role == "assistant"


def test_the_same_command_goes_on_in_the_same_place(mock: Live, tmp_path: Path) -> None:
    arguments = ("eval", "gsm8k", "--port", mock.port, "--max-new-tokens", 8)
    call(*arguments, "--limit", 2)
    (first,) = (tmp_path / "runs").iterdir()
    before = (first / "gsm8k" / "episodes.jsonl").read_bytes()
    call(*arguments, "--limit", 4)
    assert [first] == list((tmp_path / "runs").iterdir())
    after = (first / "gsm8k" / "episodes.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 4
    # Other settings are another run.
    call(*arguments, "--limit", 2, "--seed", 1)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert "on 2 common samples" in call("report")


def test_checkpoints_of_one_name_in_different_places_are_different_runs(tmp_path: Path) -> None:
    async def run(place: str) -> str:
        # As a server tells a local directory: its path, and no commit.
        async with scripted_server(tgi(lambda _: said("4"), model_id=place, max_total_tokens=None)) as server:
            asked = ["gsm8k", "--own-samples", "--limit", "2", "--template", "plain", "--url", server.url]
            return await asyncio.to_thread(call, "eval", *asked)

    for place in ("/runs/step-100/export", "/runs/step-200/export"):
        assert "export  (export-agentlm-" in asyncio.run(run(place))
    first, second = sorted((tmp_path / "runs").iterdir())
    told = {json.loads((one / "run.json").read_text())["model"]["served as"] for one in (first, second)}
    assert told == {"/runs/step-100/export", "/runs/step-200/export"}


def test_the_seed_projects_command_shapes(mock: Live, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"question": "What is 1 + 1?", "answer": "#### 2"}\n')
    flags = ("--ip", "127.0.0.1", "-p", mock.port, "-f", items, "--max-new-tokens", 4, "-o", "out")
    assert "1 of 1 samples" in call("eval", "gsm8k", *flags)
    flags = ("--host", "http://127.0.0.1", "--port", f"{mock.port}-{mock.port}", "--sample-input-file", items)
    assert "1 of 1 samples" in call("eval", "gsm8k", *flags, "--max-new-tokens", 4, "-o", "out2")


def test_good_trajectories_become_records_that_agentlm_reads(mock: Live, tmp_path: Path) -> None:
    call("eval", "gsm8k", "mmlu", "--port", mock.port, "--limit", 6, "--max-new-tokens", 8, "-o", "run")
    out = tmp_path / "data.jsonl"
    assert "6 of 6 episodes kept" in call(
        "data", "build", "run", "-o", out, "--task", "gsm8k", "--min-reward", 0
    )
    assert len([records.parse(line) for line in out.read_text().splitlines()]) == 6
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["item"] == "gsm8k/own-01"
    trained = [
        message
        for message in rows[0]["messages"]
        if message["role"] == "assistant" and message.get("loss", True)
    ]
    assert len(trained) == 1
    assert "0 of 6 episodes kept" in call(
        "data", "build", "run", "-o", out, "--task", "gsm8k", "--min-reward", 1
    )
    assert "has no task os" in call("data", "build", "run", "-o", out, "--task", "os", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "no task 'nonsense'; there are alfworld"),
        (("webarena",), "task webarena (WebArena) is not built yet"),
        (("gsm8k", "--protocol", "none"), "task gsm8k knows the protocols agentlm, agenttuning, not 'none'"),
        (
            ("gsm8k", "--protocol", "agenttuning"),
            "`agentlm data fetch agenttuning`, or --protocol-dir CHECKOUT",
        ),
        (("gsm8k", "--sample-id", "own-99"), "task gsm8k has no sample own-99; its first are own-01"),
        (("gsm8k", "--data", "."), "`--own-samples` takes the few that are in the wheel"),
        (("gsm8k", "--port", "0"), "a port is '0'"),
        (("gsm8k", "--url", "localhost:1"), "must be http://HOST:PORT"),
        (("gsm8k", "-T", "x"), "--task-option is 'x'"),
        (("gsm8k", "-T", "mmlu.scoring=letters"), "--task-option names mmlu, which this run does not have"),
        (("mmlu", "-T", "mmlu.scoring=x"), "mmlu.scoring is 'x'; it must be one of letters, generated"),
        (("mmlu", "-T", "mmlu.colour=x"), "task mmlu has no option 'colour'; it has: scoring"),
        (
            ("database", "-T", "database.workers=many"),
            "database.workers is 'many'; it must be a whole number, at least 1",
        ),
        (
            ("humaneval", "-T", "humaneval.seconds=0"),
            "humaneval.seconds is '0'; it must be a number, at least 0.1",
        ),
        (("gsm8k", "mmlu", "-f", "x"), "--sample-input-file is for one task"),
        (("gsm8k", "-f", "empty.jsonl"), "task gsm8k has no samples in empty.jsonl"),
        (("card-game", "-f", "empty.jsonl"), "the items of task card-game follow from its rules"),
        (("gsm8k", "--judge-model", "x"), "--judge-model is given without --judge-url"),
        (
            ("gsm8k", "--url", "http://h:1", "--serve-arg", "x"),
            "--serve-arg is for a checkpoint that we serve",
        ),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments: tuple[str, ...], message: str) -> None:
    Path("empty.jsonl").touch()
    assert message in call("eval", *arguments, code=1)


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    assert "there is no run below ./runs" in call("report", code=1)
    assert "holds no run" in call("report", ".", code=1)
    assert "there is no transcript below" in call("eval", "view", ".", code=1)


def test_data_is_fetched_from_a_mirror_and_held_to_its_checksum(tmp_path: Path, data_dir: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "test.jsonl").write_bytes((data_dir / "gsm8k" / "test.jsonl").read_bytes())
    assert "gsm8k/test.jsonl: SHA-256 as pinned" in call("data", "fetch", "gsm8k", "--mirror", mirror)
    assert "there already" in call("data", "fetch", "gsm8k", "--mirror", mirror)
    # What was fetched is what runs take from now on.
    assert re.search(r"gsm8k +ready .* 1319 samples", call("eval", "list"))
    (mirror / "test.jsonl").write_text("{}")
    (tmp_path / "cache" / "agentlm" / "data" / "gsm8k" / "test.jsonl").unlink()
    assert "not 3730d312" in call("data", "fetch", "gsm8k", "--mirror", mirror, code=1)
    assert "holds neither" in call("data", "fetch", "humaneval", "--mirror", mirror, code=1)
    assert "nothing to fetch for 'webarena'" in call("data", "fetch", "webarena", code=1)


def test_agentlm_has_the_commands_too() -> None:
    result = CliRunner().invoke(agentlm, ["eval", "--help"])
    assert (result.exit_code, "gsm8k --limit 5" in result.output) == (0, True)
    assert os.environ["XDG_CACHE_HOME"]
