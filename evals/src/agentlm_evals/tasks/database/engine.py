"""What an episode needs of a SQL engine, whichever it is. Refuses to know which."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from agentlm_evals.errors import EnvironmentFault
from agentlm_evals.tasks.database.item import Table

STATEMENT_SECONDS = 15.0
"""After which a statement is stopped, and the model is told."""
MOST_ROWS = 1000
"""Rows of a result that are fetched; the model sees 800 characters of them."""
TIMED_OUT = "3024 (HY000): Query execution was interrupted, maximum statement execution time exceeded"

FULL = "1114 (HY000): The table '{}' is full"


class EngineError(EnvironmentFault):
    """An engine failed in a way that no statement of the model's explains."""


class Session(ABC):
    """One item's database, from creation to removal; used by one thread at a time."""

    @abstractmethod
    def execute(self, sql: str) -> str:
        """Runs one statement of the model's; returns what it is told: rows as Python prints them, or the error's text."""

    @abstractmethod
    def rows(self) -> list[tuple[Any, ...]] | None:
        """All rows of the item's table in its own columns; None if the model took the table or a column away."""


class Engine(ABC):
    """One engine that holds one session at a time."""

    @abstractmethod
    def session(self, table: Table) -> AbstractContextManager[Session]:
        """A fresh database named after the table, holding it; removed at the end.

        Raises:
            EngineError: The engine is gone, or does not take the table.
        """

    @abstractmethod
    def version(self) -> str:
        """Name and version, as results say it."""

    def is_full(self) -> bool:
        """Whether episodes have left so much behind that it should be replaced."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Ends what was started for it."""


def shown(rows: Sequence[Sequence[Any]]) -> str:
    """Fetched rows as the model sees them: `[]`, `[(3,)]`."""
    return str([tuple(row) for row in rows])
