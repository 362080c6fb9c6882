"""A cache of deterministic calls, keyed on the weights' digest and the whole request. Refuses to know what a call means.

Nothing sampled is ever kept, and nothing of a model whose weights have no digest: a name does not tell two models apart.
"""

import asyncio
import json
import logging
import sqlite3
import threading
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
BATCH_SECONDS = 0.5
"""Answers are written together, so that a run of many short ones does not wait for the disk."""


class CallCache:
    """One SQLite file; several runs may use it at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=30.0, isolation_level=None)
        self._lock = threading.Lock()
        with self._lock:
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute("pragma synchronous = normal")
            self._connection.execute(
                "create table if not exists calls (key blob primary key, value text not null)"
            )
        self._path = path
        self._is_broken = False
        self._waiting: dict[bytes, str] = {}
        self._written = time.monotonic()
        self.hits = 0

    @staticmethod
    def _digest(key: dict[str, Any]) -> bytes:
        return sha256(json.dumps(key, sort_keys=True, ensure_ascii=False).encode()).digest()

    async def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """What was kept under this key, if anything."""
        digest = self._digest(key)
        text = self._waiting.get(digest)
        if text is None:
            with self._lock:
                row = self._connection.execute("select value from calls where key = ?", (digest,)).fetchone()
            text = row[0] if row else None
        if text is None:
            return None
        self.hits += 1
        value: dict[str, Any] = json.loads(text)
        return value

    async def put(self, key: dict[str, Any], value: dict[str, Any]) -> None:
        """Keeps a value. It may be lost if the process is killed within half a second: it is only asked for again then."""
        if self._is_broken:
            return
        self._waiting[self._digest(key)] = json.dumps(value, ensure_ascii=False)
        if time.monotonic() - self._written > BATCH_SECONDS:
            self._written = time.monotonic()
            waiting, self._waiting = self._waiting, {}
            await asyncio.to_thread(self._write, waiting)

    def _write(self, rows: dict[bytes, str]) -> None:
        if self._is_broken or not rows:
            return
        with self._lock:
            try:
                self._connection.execute("begin immediate")
                self._connection.executemany("insert or replace into calls values (?, ?)", rows.items())
                self._connection.execute("commit")
            except sqlite3.Error as error:
                # No answer depends on it: the run goes on, and says what it goes without.
                self._is_broken = True
                with suppress(sqlite3.Error):
                    self._connection.execute("rollback")
                _log.warning(
                    "%s cannot be written (%s): answers are not kept from here on", self._path, error
                )

    def close(self) -> None:
        """Writes what is left."""
        self._write(self._waiting)
        self._waiting = {}
        self._connection.close()
