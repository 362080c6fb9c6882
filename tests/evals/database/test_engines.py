"""The engines: that they agree, that a stranger's statements stay in their place, that nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentlm_evals.tasks.database import engine as engine_module
from agentlm_evals.tasks.database.item import Table
from agentlm_evals.tasks.database.mariadb import HOW, PrivateMariaDB, server_program
from agentlm_evals.tasks.database.sqlite import SQLiteEngine

TABLE = Table(
    "t", ("name", "n", "score"),
    (("Anna", "12", "1,200"), ("bob", "9.5", "x"), ("Élan", "100", None), ("anna", "3", "7%")),
)  # fmt: skip

SAME = r"""
select name from t where n > 9
select name from t where name = 'ANNA'
select name from t where name = 'elan'
select sum(n), avg(n), max(n), min(n), count(*) from t
select n / 2 from t
select 7 div 2, 7 % 3, 1 / 0
select name from t order by n
select name from t order by n + 0 desc
select name from t order by cast(n as unsigned) desc limit 2
select distinct name from t
select name, count(*) from t group by name
select name from t where name like '%A%'
select concat(name, '-', n), concat_ws('/', name, score) from t
select name from t where score is null
select name from t where n between 3 and 12
select name from t where n in (9.5, 100)
select name from t where name regexp '^a'
select if(n > 10, 'y', 'n'), ifnull(score, 'none') from t
select group_concat(name) from t
select substring_index(score, ',', 1), replace(score, ',', '') + 0 from t
select char_length(name), upper(name), left(name, 2), right(name, 2) from t
select name from t where n > (select avg(n) from t)
select year('2020-01-02'), 3 xor 1, not true
show tables
describe t
show columns from t
select * from `t`.`t` limit 1
with c as (select * from t) select count(*) from c
select row_number() over (order by n) from t
update t set n = n + 1 where name = 'bob'
insert into t (name, n) values ('c\'d', 5), ("q", 'x')
delete from t where name = 'q'
select * from t
alter table t add column z text
create table u (a int, b text)
insert into u values ('5', 'x')
select * from u
drop table u
update t set score = null
select * from t
truncate table t
select * from t
""".strip().splitlines()

needs_mariadb = pytest.mark.skipif(server_program() is None, reason=f"no MariaDB server is installed: {HOW}")


@pytest.fixture(scope="module")
def mariadb():
    if server_program() is None:
        pytest.skip(f"no MariaDB server is installed: {HOW}")
    server = PrivateMariaDB()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "mariadb"])
def engine(request):
    return SQLiteEngine() if request.param == "sqlite" else request.getfixturevalue("mariadb")


def test_sqlite_answers_as_mariadb_does(mariadb):
    with SQLiteEngine().session(TABLE) as ours, mariadb.session(TABLE) as theirs:
        for statement in SAME:
            assert (statement, ours.execute(statement)) == (statement, theirs.execute(statement))
        assert ours.rows() == theirs.rows()


@pytest.mark.parametrize(
    ("statement", "start"),
    [
        ("select nope from t", "1054 (42S22): Unknown column 'nope' in "),
        ("select `nope` from t", "1054 (42S22): Unknown column 'nope' in "),
        ("select * from nope", "1146 (42S02): Table 't.nope' doesn't exist"),
        ("describe nope", "1146 (42S02): Table 't.nope' doesn't exist"),
        ("choose * from t", "1064 (42000): You have an error in your SQL syntax; check the manual"),
        ("hello", "1064 (42000): You have an error in your SQL syntax; check the manual"),
        ("select 1; drop table t", "1064 (42000): You have an error in your SQL syntax; check the manual"),
        ("insert into t values (1, 2)", "1136 (21S01): Column count doesn't match value count at row 1"),
        ("create table t (a int)", "1050 (42S01): Table 't' already exists"),
        ("select nofunction(1)", "1305 (42000): FUNCTION t.nofunction does not exist"),
        ("", "1065 (42000): Query was empty"),
    ],
)  # fmt: skip
def test_errors_read_as_mysqls(engine, statement, start):
    with engine.session(TABLE) as session:
        text = session.execute(statement)
        assert text.lower().startswith(start.lower())
        assert session.execute("select count(*) from t") == "[(4,)]"


@pytest.mark.parametrize(
    "statement",
    [
        "select load_file('/etc/passwd')",
        "select * from t into outfile '/tmp/agentlm-stolen'",
        "load data infile '/etc/passwd' into table t",
        "drop database mysql",
        "select count(*) from mysql.user",
        "set global max_connections = 1",
        "create user x@y",
        "shutdown",
        "attach database '/tmp/agentlm-stolen' as x",
        "pragma writable_schema = 1",
        "kill 1",
        "select readfile('/etc/passwd')",
        "install plugin x soname 'y.so'",
    ],
)
def test_a_strangers_statement_reaches_nothing_but_its_own_database(engine, statement):
    with engine.session(TABLE) as session:
        text = session.execute(statement)
        assert "root:" not in text
        assert text == "[(None,)]" or text.split(" ")[0].isdigit()
        assert session.execute("select count(*) from t") == "[(4,)]"
    assert not Path("/tmp/agentlm-stolen").exists()


def test_an_episode_leaves_nothing_for_the_next(engine):
    with engine.session(TABLE) as session:
        session.execute("create table other (a int)")
        session.execute("set @x = 5")
        session.execute("lock tables t write")
        session.execute("begin")
        session.execute("delete from t")
    with engine.session(TABLE) as session:
        assert session.execute("show tables") == "[('t',)]"
        assert session.execute("select count(*) from t") == "[(4,)]"


def test_a_database_that_was_dropped_fails_its_own_item_only(engine):
    with engine.session(TABLE) as session:
        session.execute("drop table t")
        assert session.rows() is None
    with engine.session(TABLE) as session:
        assert len(session.rows()) == 4


def test_a_long_statement_is_stopped(monkeypatch):
    monkeypatch.setattr("agentlm_evals.tasks.database.sqlite.STATEMENT_SECONDS", 0.2)
    with SQLiteEngine().session(TABLE) as session:
        begun = time.monotonic()
        loop = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c"
        assert session.execute(loop) == engine_module.TIMED_OUT
        assert time.monotonic() - begun < 5
        assert session.execute("select count(*) from t") == "[(4,)]"


@needs_mariadb
def test_a_long_statement_is_stopped_on_the_server(mariadb, monkeypatch):
    monkeypatch.setattr("agentlm_evals.tasks.database.mysql.STATEMENT_SECONDS", 1)
    with mariadb.session(TABLE) as session:
        begun = time.monotonic()
        session.execute("set session max_statement_time = 0")
        assert session.execute("select benchmark(100000000000, md5('x'))") == engine_module.TIMED_OUT
        assert time.monotonic() - begun < 8
        assert session.execute("select count(*) from t") == "[(4,)]"


def test_a_table_that_grows_without_end_is_stopped(engine, monkeypatch):
    with engine.session(TABLE) as session:
        answers = [
            session.execute("insert into t select repeat('x', 200000), a.n, b.n from t a, t b")
            for _ in range(5)
        ]
        assert any(not answer.startswith("[") for answer in answers)
    with engine.session(TABLE) as session:
        assert session.execute("select count(*) from t") == "[(4,)]"


@needs_mariadb
def test_a_statement_that_takes_the_machines_memory_is_stopped(mariadb):
    with mariadb.session(TABLE) as session:
        session.execute("set session max_heap_table_size = 8 * 1024 * 1024 * 1024")
        session.execute("create table big (x char(255), y char(255)) engine = memory")
        session.execute("insert into big select 'x', 'y' from t a, t b, t c, t d, t e")
        told = [session.execute("insert into big select a.x, a.y from big a, t b") for _ in range(8)]
        assert any("1114 (HY000): The table 't' is full" in one for one in told), told
        assert mariadb.is_full(), "it is replaced"


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a*)*b", "((x?a)+){5,}$"])
def test_no_pattern_holds_up_everybody(pattern):
    with SQLiteEngine().session(Table("t", ("a",), (("a" * 60 + "!",),))) as session:
        begun = time.monotonic()
        assert not session.execute(f"select a from t where a regexp '{pattern}'").startswith("[(")
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("pattern", ["^a+!$", "^(a{2})+!$", "(b|a)!", "[a-z]+ ?!", "a.*!"])
def test_usual_patterns_work(pattern):
    with SQLiteEngine().session(Table("t", ("a",), (("aaaa!",),))) as session:
        assert session.execute(f"select 1 from t where a regexp '{pattern}'") == "[(1,)]"


@needs_mariadb
def test_names_with_every_sign_work(mariadb):
    table = Table("a`b_%\\ '\"é", ("c`d", "e f"), (("1", "2"),))
    with mariadb.session(table) as session:
        assert session.rows() == [("1", "2")]
        assert session.execute("select count(*) from `a``b_%\\ '\"é`") == "[(1,)]"


@needs_mariadb
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_its_owner_however_the_owner_ends(how):
    program = (
        "import sys, time\n"
        "from agentlm_evals.tasks.database.mariadb import PrivateMariaDB\n"
        "server = PrivateMariaDB()\n"
        "print(server.folder, (server.folder / 'pid').read_text().strip(), flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    folder, pid = owner.stdout.readline().split()
    os.kill(int(pid), 0)
    owner.send_signal(how)
    owner.wait()
    deadline = time.monotonic() + 15
    while (Path(folder).exists() or Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).exists()
