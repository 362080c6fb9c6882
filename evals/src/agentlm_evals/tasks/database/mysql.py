"""A server that speaks MySQL's protocol: one database an item, the model's statements by an account that owns nothing else.

The same for a private MariaDB and for any server by URL. Refuses to know how the server was started.
"""

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql  # type: ignore[import-untyped]
from pymysql.constants import ER  # type: ignore[import-untyped]

from agentlm_evals.errors import ConfigError
from agentlm_evals.tasks.database.engine import (
    FULL,
    MOST_ROWS,
    STATEMENT_SECONDS,
    TIMED_OUT,
    Engine,
    EngineError,
    Session,
    shown,
)
from agentlm_evals.tasks.database.item import Table

SQL_MODE = "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""Not strict: the gold statements' hashes reproduce only so."""
_STATES = {
    1046: "3D000", 1048: "23000", 1050: "42S01", 1051: "42S02", 1052: "23000", 1054: "42S22", 1055: "42000",
    1058: "21S01", 1060: "42S21", 1062: "23000", 1064: "42000", 1065: "42000", 1066: "42000", 1091: "42000",
    1109: "42S02", 1111: "HY000", 1136: "21S01", 1140: "42000", 1142: "42000", 1044: "42000", 1045: "28000",
    1049: "42000", 1146: "42S02", 1172: "42000", 1222: "21000", 1227: "42000", 1241: "21000", 1242: "21000",
    1305: "42000", 1365: "22012", 1582: "42000", 1630: "42000",
}  # fmt: skip
"""SQLSTATE by error number, from MySQL's error reference, where the driver's version does not pass it on."""
_log = logging.getLogger(__name__)
_LOST = (2006, 2013, 1053, 1927)
"""Numbers of a connection that is gone: the server's, or ours after a statement was stopped."""


def quoted(name: str) -> str:
    """An identifier in backticks."""
    return "`" + name.replace("`", "``") + "`"


def error_text(error: pymysql.err.MySQLError) -> str:
    """As MySQL's own driver prints it: number, SQLSTATE, message."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else -1
    message = error.args[1] if len(error.args) > 1 else str(error)
    state = getattr(error, "sqlstate", None) or _STATES.get(number, "HY000")
    return f"{number} ({state}): {message}"


def parse_url(url: str) -> dict[str, Any]:
    """Arguments for a connection from `mysql://user:password@host:port`, or `…@/path/of.sock`.

    Raises:
        ConfigError: It is no such URL.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError as error:
        raise ConfigError(f"the database URL's port is not a number: {error}") from error
    if parts.scheme != "mysql" or not parts.username:
        raise ConfigError(
            "a database URL has the form mysql://user:password@host:3306, or mysql://user@/path/of.sock"
        )
    arguments: dict[str, Any] = {"user": unquote(parts.username), "password": unquote(parts.password or "")}
    if parts.hostname:
        return arguments | {"host": parts.hostname, "port": port}
    return arguments | {"unix_socket": parts.path}


class MySQLSession(Session):
    """One item's database on the server."""

    def __init__(self, engine: "MySQLEngine", table: Table, arguments: Mapping[str, Any]) -> None:
        self._engine = engine
        self._table = table
        self._arguments = arguments
        self._connection: pymysql.Connection | None = None

    def execute(self, sql: str) -> str:
        """One statement; a statement that takes too long is stopped, and its connection with it."""
        try:
            connection = self.connect()
        except pymysql.err.MySQLError as error:
            if error.args and error.args[0] in (ER.BAD_DB_ERROR, ER.DBACCESS_DENIED_ERROR):
                return error_text(error)  # the model took the database away
            raise EngineError(f"the model's account cannot connect: {error_text(error)}") from error
        try:
            with self._engine.watched(connection.thread_id()), connection.cursor() as cursor:
                cursor.execute(sql)
                rows = list(cursor.fetchmany(MOST_ROWS)) if cursor.description else []
            connection.commit()
            return shown(rows)
        except pymysql.err.MySQLError as error:
            if error.args and error.args[0] in _LOST:
                self.disconnect()
                self._engine.check()
                return FULL.format(self._table.name) if self._engine.is_full() else TIMED_OUT
            return error_text(error)
        except (UnicodeError, ValueError, TypeError, OverflowError) as error:
            return f"1105 (HY000): {error}"  # a value or a statement that the driver cannot carry

    def connect(self) -> pymysql.Connection:
        """The model's connection, opened if it is not. Raises pymysql's errors."""
        if self._connection is None:
            self._connection = pymysql.connect(
                **self._arguments,
                database=self._table.name,
                charset="utf8mb4",
                read_timeout=STATEMENT_SECONDS,
                write_timeout=STATEMENT_SECONDS,
                local_infile=False,
            )
        return self._connection

    def disconnect(self) -> None:
        """Ends the model's connection and what it still does on the server: locks, transactions, a running statement."""
        if self._connection is not None:
            number = self._connection.thread_id()
            with contextlib.suppress(pymysql.err.MySQLError):
                self._connection.close()
            self._connection = None
            self._engine.end_connection(number)

    def rows(self) -> list[tuple[Any, ...]] | None:
        """The table as others see it."""
        self.disconnect()
        columns = ", ".join(quoted(name) for name in self._table.columns)
        try:
            return self._engine.ask(
                f"SELECT {columns} FROM {quoted(self._table.name)}.{quoted(self._table.name)}"
            )
        except pymysql.err.MySQLError as error:
            if error.args and error.args[0] in (ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.BAD_DB_ERROR):
                return None
            raise EngineError(f"the table cannot be read: {error_text(error)}") from error


class MySQLEngine(Engine):
    """A server and the account that may do everything on it.

    Args:
        arguments: pymysql's arguments for that account.
        must_restrict: Whether the model must have an account of its own, which sees its item's database alone. Otherwise it
            has one where the server lets us make it, and where it does not, said aloud, the account that was given.
    """

    def __init__(self, arguments: Mapping[str, Any], *, must_restrict: bool) -> None:
        self._arguments = dict(arguments)
        self._must_restrict = must_restrict
        self._restrict = True
        self._lock = threading.Lock()
        self._version = ""
        try:
            self._admin = self._open()
        except pymysql.err.MySQLError as error:
            raise EngineError(f"the database server does not answer: {error_text(error)}") from error

    def _open(self) -> pymysql.Connection:
        admin = pymysql.connect(**self._arguments, charset="utf8mb4", autocommit=True, local_infile=False)
        with admin.cursor() as cursor:
            cursor.execute(f"SET SESSION sql_mode = '{SQL_MODE}'")
            cursor.execute("SELECT version()")
            row = cursor.fetchone()
            self._version = str(row[0]) if row else "unknown"
        return admin

    def ask(self, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
        """One statement of our own. Raises pymysql's errors."""
        with self._lock, self._admin.cursor() as cursor:
            cursor.execute(sql, values)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    @contextmanager
    def watched(self, connection: int) -> Iterator[None]:
        """Around a statement of the model's on that connection. On a server that is not ours its owner's bounds hold."""
        del connection
        yield

    def check(self) -> None:
        """Raises EngineError if the server is gone."""
        try:
            with self._lock:
                self._admin.ping(reconnect=False)
        except pymysql.err.MySQLError as error:
            raise EngineError(f"the database server is gone: {error_text(error)}") from error

    def end_connection(self, number: int) -> None:
        """Whatever a connection of the model's still does is rolled back."""
        with contextlib.suppress(pymysql.err.MySQLError):
            self.ask(f"KILL CONNECTION {int(number)}")

    @contextmanager
    def session(self, table: Table) -> Iterator[Session]:
        """A database named after the table; refuses one that exists, which on somebody's server is not ours to drop."""
        name = quoted(table.name)
        account = f"agentlm_{secrets.token_hex(6)}"
        made = False
        try:
            self.ask(f"CREATE DATABASE {name}")
            made = True
            self._load(table)
            session = self._session(table, account)
        except pymysql.err.MySQLError as error:
            if made:
                self._drop(name, account)
            raise EngineError(f"table {table.name!r} cannot be set up: {error_text(error)}") from error
        try:
            yield session
        finally:
            session.disconnect()
            self._drop(name, account)

    def _session(self, table: Table, account: str) -> MySQLSession:
        """The model's session, connected as an account of its own if there can be one."""
        arguments = self._arguments | {"init_command": f"SET SESSION sql_mode = '{SQL_MODE}'"}
        if self._restrict:
            password = secrets.token_hex(16)
            pattern = quoted(table.name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))
            try:
                self.ask(f"CREATE USER '{account}'@'%' IDENTIFIED BY '{password}'")
                self.ask(f"GRANT ALL ON {pattern}.* TO '{account}'@'%'")
                session = MySQLSession(self, table, arguments | {"user": account, "password": password})
                session.connect()
                return session
            except (pymysql.err.MySQLError, RuntimeError) as error:
                # RuntimeError: the driver lacks a package for the way in which this server checks passwords.
                if self._must_restrict:
                    raise
                self._restrict = False
                why = error_text(error) if isinstance(error, pymysql.err.MySQLError) else str(error)
                with contextlib.suppress(pymysql.err.MySQLError):
                    self.ask(f"DROP USER IF EXISTS '{account}'@'%'")
                _log.warning(
                    "the database server lets us make no account for the model (%s): its statements run with all "
                    "rights of the account that was given",
                    why,
                )
        session = MySQLSession(self, table, arguments)
        session.connect()
        return session

    def _load(self, table: Table) -> None:
        name = quoted(table.name)
        columns = ", ".join(f"{quoted(column)} TEXT" for column in table.columns)
        self.ask(f"CREATE TABLE {name}.{name} ({columns})")
        if table.rows:
            places = ", ".join(["%s"] * len(table.columns))
            escaped = name.replace("%", "%%")  # the driver's own placeholders are percent signs
            with self._lock, self._admin.cursor() as cursor:
                cursor.executemany(f"INSERT INTO {escaped}.{escaped} VALUES ({places})", table.rows)

    def _drop(self, name: str, account: str) -> None:
        try:
            self.ask(f"DROP DATABASE IF EXISTS {name}")
            if self._restrict:
                self.ask(f"DROP USER IF EXISTS '{account}'@'%'")
        except pymysql.err.MySQLError as error:
            raise EngineError(f"database {name} cannot be removed: {error_text(error)}") from error

    def version(self) -> str:
        """`MariaDB 10.11.19`, `MySQL 8.4.0`."""
        kind = "MariaDB" if "mariadb" in self._version.lower() else "MySQL"
        return f"{kind} {self._version.split('-')[0]}"

    def close(self) -> None:
        """Ends our connection."""
        with contextlib.suppress(pymysql.err.MySQLError):
            self._admin.close()
