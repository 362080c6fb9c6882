"""The task as a whole: gold answers, nothing at all, transcripts worked out by hand, and both protocols' reading."""

import asyncio
import json
from typing import Any

import pytest

from agentlm_evals.errors import HarnessFault
from agentlm_evals.harness.doctor import examine, play
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.task import Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.database import TASK
from agentlm_evals.tasks.database.mariadb import HOW, server_program

needs_mariadb = pytest.mark.skipif(server_program() is None, reason=f"no MariaDB server is installed: {HOW}")
ENGINES = ["sqlite", pytest.param("mariadb", marks=needs_mariadb)]
OURS = Protocol(AGENTLM)
PUBLISHED = Protocol(AGENTTUNING, {"instruction": "Answer with SQL.", "ready": "Ok."})


def setting(engine: str, directory=None, protocol: Protocol = OURS) -> Setting:
    return Setting(Source(directory), protocol, resolve_options(TASK, {"engine": engine, "workers": "1"}))


def run_all(where: Setting, dialogues: list[tuple[str, list[str]]]) -> list[Any]:
    """(sample, the model's replies) to scores, all in one environment."""

    async def run_them():
        async with TASK.environment(where) as environment:
            scores = []
            for sample_id, replies in dialogues:
                plan = plan_task(TASK, where, RunSettings(sample_ids=(sample_id,)))
                scores.append(await play(plan, plan.samples[0], scripted(*replies), environment))
            return scores

    return asyncio.run(run_them())


def run(where: Setting, sample_id: str, *replies: str) -> Any:
    return run_all(where, [(sample_id, list(replies))])[0]


def operation(sql: str) -> str:
    return f"I try.\nAction: Operation\n```sql\n{sql}\n```"


def answer(*values: str) -> str:
    return f"Done.\nAction: Answer\nFinal Answer: {json.dumps(list(values))}"


@pytest.mark.parametrize("engine", ENGINES)
def test_own_samples_have_a_gold_path_and_nothing_scores_nothing(engine: str):
    finding = asyncio.run(examine(TASK, setting(engine)))
    assert finding.wrong == []
    assert (finding.gold, finding.solved, finding.nothing_solved) == (24, 24, 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_60_development_items_score(engine: str, data_dir):
    finding = asyncio.run(examine(TASK, setting(engine, data_dir)))
    assert finding.wrong == []
    assert (finding.gold, finding.solved, finding.nothing_solved) == (60, 60, 0)


def test_development_items_cover_three_categories(data_dir):
    samples = TASK.samples(setting("sqlite", data_dir))
    assert {name: sum(s.category == name for s in samples) for name in ("SELECT", "INSERT", "UPDATE")} == {
        "SELECT": 20,
        "INSERT": 20,
        "UPDATE": 20,
    }


def test_an_item_that_no_engine_loads_is_a_fault_as_published_and_repaired_in_ours(data_dir):
    # Item 5 has a column without a name, which MySQL refuses.
    published = run(setting("sqlite", data_dir, PUBLISHED), "5", answer("17"))
    assert published.outcome is Outcome.HARNESS_FAULT
    assert "without a name" in published.details["why"]
    assert run(setting("sqlite", data_dir), "5", answer("17")).outcome is Outcome.RIGHT


TRANSCRIPTS = [
    ("own-02", [operation("SELECT COUNT(*) FROM players WHERE team = 'lions'"), answer("2")], "right", None),
    ("own-02", [answer("2.0")], "right", None),
    ("own-02", [answer("3")], "wrong", None),
    ("own-10", [answer("Prague", "Berlin")], "right", None),
    ("own-10", [answer("Prague")], "wrong", None),
    ("own-10", [answer("prague", "Berlin")], "wrong", None),
    ("own-02", ["I do not know."], "format or limit", "no action"),
    ("own-02", ["Hm.\nAction: Operation\nSELECT 1"], "format or limit", "no statement"),
    ("own-02", ["Hm.\nAction: Answer\n2"], "format or limit", "no final answer"),
    ("own-02", [operation("SELECT 1")], "format or limit", "15 statements and no answer"),
    # The table decides, whatever the dialogue ends with.
    ("own-13", [operation("INSERT INTO players VALUES ('Frank', 'Wolves', 9)"), "AAAAA"], "right", None),
    ("own-13", [operation("INSERT INTO players VALUES ('Frank', 'Wolves', 8)"), answer("done")], "wrong", None),
    ("own-13", [operation("DROP TABLE players"), answer("done")], "wrong", None),
    ("own-13", [operation("ALTER TABLE players DROP COLUMN goals"), answer("done")], "wrong", None),
    # (sample, replies, outcome, why)
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_scripted_dialogues_score_as_worked_out_by_hand(engine):
    scores = run_all(setting(engine), [(sample, replies) for sample, replies, _, _ in TRANSCRIPTS])
    for score, (sample, replies, outcome, why) in zip(scores, TRANSCRIPTS, strict=True):
        found = (sample, replies, score.outcome.value, score.details.get("why"))
        assert found == (sample, replies, outcome, why)


def test_the_published_reading_is_stricter():
    loose = ["Action: operation\n```SQL\nSELECT 1```", answer("2")]
    assert run(setting("sqlite"), "own-02", *loose).outcome is Outcome.RIGHT
    assert run(setting("sqlite", protocol=PUBLISHED), "own-02", *loose).outcome is Outcome.FORMAT_OR_LIMIT
    # A quoted text falls into letters where the original evaluates it.
    quoted = 'x\nAction: Answer\nFinal Answer: "Clara"'
    assert run(setting("sqlite"), "own-03", quoted).outcome is Outcome.RIGHT
    assert run(setting("sqlite", protocol=PUBLISHED), "own-03", quoted).outcome is Outcome.WRONG


def test_every_row_says_which_engine_it_was():
    assert TASK.versions(setting("sqlite"))["engine"].startswith("SQLite 3.")


@needs_mariadb
def test_the_version_is_the_servers_where_it_runs():
    assert "MariaDB" in TASK.versions(setting("auto"))["engine"]


def test_a_url_that_is_none_is_refused():
    where = Setting(Source(), Protocol(AGENTLM), resolve_options(TASK, {"url": "postgres://a@b"}))
    with pytest.raises(ValueError, match="mysql://user:password@host:3306"):
        asyncio.run(examine(TASK, where, 1))


def test_a_server_that_does_not_answer_is_a_fault_not_a_wrong_answer():
    where = Setting(Source(), Protocol(AGENTLM), resolve_options(TASK, {"url": "mysql://a@/nowhere/socket"}))
    score = run(where, "own-01", answer("Wolves"))
    assert score.outcome is Outcome.HARNESS_FAULT
    assert issubclass(HarnessFault, Exception)


@needs_mariadb
def test_any_mysql_by_url_scores_the_same_and_is_left_as_it_was():
    from agentlm_evals.tasks.database.mariadb import PrivateMariaDB

    server = PrivateMariaDB()
    try:
        before = server.ask("SHOW DATABASES")
        where = Setting(
            Source(),
            Protocol(AGENTLM),
            resolve_options(TASK, {"url": f"mysql://root@{server.folder}/socket"}),
        )
        finding = asyncio.run(examine(TASK, where))
        assert (finding.solved, finding.wrong) == (24, [])
        assert server.ask("SHOW DATABASES") == before
    finally:
        server.close()


@needs_mariadb
def test_on_somebodys_server_the_model_sees_its_own_database_or_the_user_is_told(caplog):
    from agentlm_evals.tasks.database.item import Table
    from agentlm_evals.tasks.database.mariadb import PrivateMariaDB
    from agentlm_evals.tasks.database.mysql import MySQLEngine

    server = PrivateMariaDB()
    table = Table("t", ("a",), (("1",),))
    try:
        server.ask("CREATE DATABASE precious")
        engine = MySQLEngine({"unix_socket": f"{server.folder}/socket", "user": "root"}, must_restrict=False)
        with engine.session(table) as session:
            assert "1044 (42000): Access denied" in session.execute("DROP DATABASE precious")
            assert session.execute("SELECT a FROM t") == "[('1',)]"
        engine.close()
        server.ask("CREATE USER poor@localhost")
        server.ask("GRANT ALL ON t.* TO poor@localhost")
        engine = MySQLEngine({"unix_socket": f"{server.folder}/socket", "user": "poor"}, must_restrict=False)
        assert not caplog.records
        with engine.session(table) as session:
            assert session.execute("SELECT a FROM t") == "[('1',)]"
            assert session.rows() == [("1",)]
        engine.close()
        assert "its statements run with all rights of the account that was given" in caplog.text
        left = [user for (user,) in server.ask("SELECT user FROM mysql.user") if user.startswith("agentlm_")]
        assert left == []
    finally:
        server.close()
