"""The engines of a run: as many as workers, started when an episode first needs one. Refuses to know items' meanings."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

import anyio
from anyio.to_thread import run_sync

from agentlm_evals.errors import ConfigError
from agentlm_evals.tasks.database import mariadb
from agentlm_evals.tasks.database.engine import Engine, EngineError, Session
from agentlm_evals.tasks.database.item import Table
from agentlm_evals.tasks.database.mysql import MySQLEngine, parse_url
from agentlm_evals.tasks.database.sqlite import SQLiteEngine

AUTO, MARIADB, SQLITE = "auto", "mariadb", "sqlite"
_log = logging.getLogger(__name__)


@cache
def choose(name: str) -> str:
    """`auto` to what it means here; said aloud, once, where it is not the real thing."""
    if name != AUTO:
        return name
    if mariadb.server_program() is not None:
        return MARIADB
    _log.warning("no MariaDB server is installed: the database task runs on SQLite (%s)", mariadb.HOW)
    return SQLITE


def maker(engine: str, url: str) -> Callable[[], Engine]:
    """What makes one engine.

    Raises:
        ConfigError: The URL is none.
    """
    if url:
        arguments = parse_url(url)
        return lambda: MySQLEngine(arguments, must_restrict=False)
    if choose(engine) == MARIADB:
        return mariadb.PrivateMariaDB
    return SQLiteEngine


class EnginePool:
    """Engines that episodes borrow, each by one episode at a time."""

    def __init__(self, make: Callable[[], Engine], most: int) -> None:
        if most < 1:
            raise ConfigError(f"database.workers is {most}; it must be at least 1")
        self._make = make
        self._free: list[Engine] = []
        self._all: list[Engine] = []
        self._limit = anyio.Semaphore(most)

    @asynccontextmanager
    async def session(self, table: Table) -> AsyncIterator[tuple[Engine, Session]]:
        """An engine and a fresh database on it that holds the table.

        Raises:
            EngineError: The engine does not work; it is not used again.
        """
        async with self._limit:
            engine = self._free.pop() if self._free else None
            if engine is None:
                engine = await run_sync(self._make)
                self._all.append(engine)
            # Until a session is open nobody knows in which state the engine is: cancelled on the way, it is replaced.
            is_sound = False
            try:
                context = engine.session(table)
                session = await run_sync(context.__enter__)
                try:
                    yield engine, session
                    is_sound = True
                except Exception:
                    # A limit of the episode's, a model's server: the engine has no part in it.
                    is_sound = True
                    raise
                finally:
                    with anyio.CancelScope(shield=True):
                        await run_sync(context.__exit__, None, None, None)
            except EngineError:
                is_sound = False
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    if not is_sound or await run_sync(engine.is_full):
                        self._all.remove(engine)
                        await run_sync(engine.close)
                    else:
                        self._free.append(engine)

    async def close(self) -> None:
        """Ends every engine."""
        async with AsyncExitStack() as stack:
            for engine in self._all:
                stack.push_async_callback(run_sync, engine.close)
            self._all, self._free = [], []
