"""The engine where no MySQL is: SQLite in memory behind MySQL's grammar, meanings and error texts. Refuses to know items.

Chosen by name only (`-T database.engine=sqlite`): error texts and rarer functions differ from a server's, and every result
says which engine it was.
"""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from agentlm_evals.tasks.database.dialect import NUMBER_OF, DialectError, collate, near, number_of, translate
from agentlm_evals.tasks.database.engine import (
    FULL,
    MOST_ROWS,
    STATEMENT_SECONDS,
    TIMED_OUT,
    Engine,
    Session,
    shown,
)
from agentlm_evals.tasks.database.functions import FUNCTIONS, GroupConcat
from agentlm_evals.tasks.database.item import Table

MOST_PAGES = 16_384
"""Of 4 KiB: a database of 64 MiB."""
MOST_TEXT = 1 << 20
"""Bytes of one value."""
_STEPS = 10_000
"""Virtual machine instructions between two looks at the clock."""
_COLLATION = "mysql_ci"
_DENIED = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}
_SHOW = re.compile(r"\s*(?:show\s+(?:full\s+)?(tables|databases|schemas)\b|(use)\b)", re.IGNORECASE)
_DESCRIBE = re.compile(
    r"\s*(?:describe|desc|explain|show\s+(?:full\s+)?(?:columns|fields)\s+(?:from|in))\s+(`(?:[^`]|``)+`|[\w$]+)\s*;?\s*$",
    re.IGNORECASE,
)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class SQLiteSession(Session):
    """One item's database, in memory."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._deadline = 0.0
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute(f"PRAGMA max_page_count = {MOST_PAGES}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_TEXT)
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
        connection.create_collation(_COLLATION, collate)
        connection.create_function(NUMBER_OF, 1, number_of, deterministic=True)
        for name, count, function in FUNCTIONS:
            connection.create_function(name, count, function, deterministic=True)
        connection.create_aggregate("mysql_group_concat", 4, GroupConcat)  # type: ignore[arg-type]  # typeshed knows one argument
        columns = ", ".join(f"{_identifier(name)} TEXT COLLATE {_COLLATION}" for name in table.columns)
        connection.execute(f"CREATE TABLE {_identifier(table.name)} ({columns})")
        places = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {_identifier(table.name)} VALUES ({places})", table.rows)
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_DENY if action in _DENIED else sqlite3.SQLITE_OK
        )
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _STEPS)

    def execute(self, sql: str) -> str:
        """One statement in MySQL's words."""
        self._deadline = time.monotonic() + STATEMENT_SECONDS
        try:
            if (rows := self._about_schema(sql)) is not None:
                return shown(rows)
            cursor = self._connection.execute(translate(sql, self._table.name))
            return shown(cursor.fetchmany(MOST_ROWS) if cursor.description else [])
        except DialectError as error:
            return str(error)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            return self._error_text(str(error), sql)

    def _about_schema(self, sql: str) -> list[tuple[Any, ...]] | None:
        """Statements about the schema, which SQLite has other words for; None if it is none."""
        if found := _SHOW.match(sql):
            if (found[1] or "").lower() == "tables":
                query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
                return self._connection.execute(query).fetchall()
            return [(self._table.name,), ("information_schema",)] if found[1] else []
        if found := _DESCRIBE.match(sql):
            name = found[1].strip("`").replace("``", "`")
            query = "SELECT name FROM pragma_table_info(?)"
            self._connection.set_authorizer(None)
            columns = self._connection.execute(query, (name,)).fetchall()
            self._connection.set_authorizer(
                lambda action, *_: sqlite3.SQLITE_DENY if action in _DENIED else sqlite3.SQLITE_OK
            )
            if not columns:
                raise DialectError(f"1146 (42S02): Table '{self._table.name}.{name}' doesn't exist")
            return [(column, "text", "YES", "", None, "") for (column,) in columns]
        return None

    def _error_text(self, message: str, sql: str) -> str:
        """SQLite's message in MySQL's words."""
        if "interrupted" in message:
            return TIMED_OUT
        for pattern, text in (
            (r"no such column: (.+)", "1054 (42S22): Unknown column '{0}' in 'field list'"),
            (r"table .+ has no column named (.+)", "1054 (42S22): Unknown column '{0}' in 'field list'"),
            (r"no such table: (.+)", "1146 (42S02): Table '{database}.{0}' doesn't exist"),
            (r"no such function: (.+)", "1305 (42000): FUNCTION {database}.{0} does not exist"),
            (r"ambiguous column name: (.+)", "1052 (23000): Column '{0}' in field list is ambiguous"),
            (r"table (.+) already exists", "1050 (42S01): Table '{0}' already exists"),
            (r"duplicate column name: (.+)", "1060 (42S21): Duplicate column name '{0}'"),
            (
                r".* values (?:were supplied|for \d+ columns)",
                "1136 (21S01): Column count doesn't match value count at row 1",
            ),
            (r"misuse of aggregate", "1111 (HY000): Invalid use of group function"),
            (r"database or disk is full", FULL.format("{database}")),
            (r"not authorized", "1227 (42000): Access denied"),
        ):
            if found := re.search(pattern, message):
                groups = [group.strip('"`') for group in found.groups()]
                return text.format(*groups, database=self._table.name)
        if found := re.search(r'near "(.*?)"', message):
            at = max(sql.find(found[1]), 0)
            return near(sql, at)
        return f"1105 (HY000): {message}"

    def rows(self) -> list[tuple[Any, ...]] | None:
        """The table as it is now; a transaction left open counts, as on the model's own connection."""
        self._deadline = time.monotonic() + STATEMENT_SECONDS
        columns = ", ".join(_identifier(name) for name in self._table.columns)
        try:
            return self._connection.execute(
                f"SELECT {columns} FROM {_identifier(self._table.name)}"
            ).fetchall()
        except sqlite3.Error:
            return None

    def close(self) -> None:
        """Forgets everything."""
        self._connection.close()


class SQLiteEngine(Engine):
    """SQLite as this Python has it."""

    @contextmanager
    def session(self, table: Table) -> Iterator[Session]:
        """A database in memory that holds the table."""
        session = SQLiteSession(table)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """Nothing was started."""

    def version(self) -> str:
        """`SQLite 3.40.1 (MySQL dialect, sqlglot 26.0)`."""
        return f"SQLite {sqlite3.sqlite_version} (MySQL dialect by sqlglot {version('sqlglot')})"
