"""One table in a real SQL engine: look up, count, compare, insert, update. After DBBench, in words of our own.

Refuses to know replies and rounds. The engine is SQLite in memory; statements reach nothing but the table, and time and
size are bounded.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agentlm_evals.environments.form import OPERATION
from agentlm_evals.environments.world import Advice, Game, World

INSTRUCTION = (
    "You answer questions about a table with SQL. Each turn reply with one thought, then either Action: Operation and one "
    "SQL statement in a block of sql, or Action: Answer and a line Final Answer: with a list of strings."
)

FIRST = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Nina",
    "Paul", "Rosa", "Sam", "Tom",
)  # fmt: skip
TOWNS = ("Berlin", "Paris", "Rome", "London", "Madrid", "Oslo", "Vienna", "Prague", "Dublin", "Athens")
TEAMS = ("Eagles", "Lions", "Bears", "Sharks", "Wolves", "Tigers")
JOBS = ("teacher", "doctor", "farmer", "baker", "driver", "nurse", "cook", "singer")
DISHES = ("soup", "pizza", "salad", "rice", "cake", "fish", "pasta", "stew")
SORTS = ("meat", "sweet", "green", "hot", "cold")


@dataclass(frozen=True, slots=True)
class Schema:
    """A kind of table: a column of names that are all different, one of groups, one of numbers."""

    table: str
    name: str
    names: tuple[str, ...]
    group: str
    groups: tuple[str, ...]
    number: str
    low: int
    high: int


SCHEMAS = (
    Schema("players", "name", FIRST, "team", TEAMS, "goals", 1, 40),
    Schema("people", "name", FIRST, "job", JOBS, "age", 18, 80),
    Schema("guests", "name", FIRST, "town", TOWNS, "room", 1, 60),
    Schema("cities", "city", TOWNS, "river", ("Rhine", "Seine", "Tiber", "Elbe", "Danube"), "bridges", 1, 50),
    Schema("menu", "dish", DISHES, "sort", SORTS, "price", 2, 30),
)

_ALLOWED = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_FUNCTION,
}  # fmt: skip
_MOST_STEPS = 200
"""Ticks of 1,000 instructions of SQLite's machine: far more than any sensible query of some rows takes."""
_MOST_BYTES = 4096
_MOST_SHOWN = 800


def _open(schema: Schema, rows: Sequence[tuple[str, str, int]]) -> sqlite3.Connection:
    """A private engine with the table in it, bounded before any statement of an agent."""
    engine = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    engine.execute(
        f"CREATE TABLE {schema.table} ({schema.name} TEXT, {schema.group} TEXT, {schema.number} INTEGER)"
    )
    engine.executemany(f"INSERT INTO {schema.table} VALUES (?, ?, ?)", rows)
    engine.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
    engine.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    engine.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    return engine


@dataclass(slots=True)
class Database(Game):
    """One question about one table."""

    schema: Schema
    rows: list[tuple[str, str, int]]
    question: str
    thought: str
    statement: str
    """The gold statement; everything in it is in the question or among the headers."""
    engine: sqlite3.Connection
    ran: list[str] = field(default_factory=list)
    """The statements that the engine took."""
    said: list[str] = field(default_factory=list)
    """The first values of the last one's rows, as an answer would give them."""
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        s = self.schema
        self.opening = (
            f"{self.question}\nThe table is {s.table}. Its columns are {s.name}, {s.group}, {s.number}."
        )

    @property
    def changes(self) -> bool:
        """Whether the table's final state is judged, not the answer."""
        return not self.statement.startswith("SELECT")

    # --- rules -------------------------------------------------------------------------------------------------------
    def act(self, action: str) -> str:
        """See `Game.act`; an operation's result is shown as Python shows rows, an error as the engine says it."""
        kind, _, body = action.partition(": ")
        if kind == "sql":
            return self._run(body)
        self.done = True
        if self.changes:
            self.reward = float(self._state(self.engine) == self._wanted())
        else:
            self.reward = float(sorted(body.split("|")) == sorted(self._gold()))
        return ""

    def _run(self, statement: str) -> str:
        ticks = iter(range(_MOST_STEPS))
        self.engine.set_progress_handler(lambda: next(ticks, None) is None, 1000)
        try:
            rows = self.engine.execute(statement).fetchmany(100)
        except (sqlite3.Error, sqlite3.Warning) as error:
            return f"Error: {error}"
        self.ran.append(statement)
        self.said = [str(row[0]) for row in rows]
        shown = str(rows)
        return shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + "[TRUNCATED]"

    def _state(self, engine: sqlite3.Connection) -> list[tuple[Any, ...]]:
        engine.set_progress_handler(None, 0)
        return sorted(engine.execute(f"SELECT * FROM {self.schema.table}").fetchall(), key=repr)

    def _wanted(self) -> list[tuple[Any, ...]]:
        engine = _open(self.schema, self.rows)
        engine.execute(self.statement)
        return self._state(engine)

    def _gold(self) -> list[str]:
        return [str(row[0]) for row in _open(self.schema, self.rows).execute(self.statement).fetchall()]

    # --- the expert --------------------------------------------------------------------------------------------------
    def advise(self) -> Advice:
        """See `Game.advise`: one statement, then the answer that its result shows."""
        if self.changes and self.statement in self.ran:
            return Advice("The table is changed. I am done.", "answer: done")
        if self.ran[-1:] != [self.statement]:
            return Advice(self.thought, f"sql: {self.statement}")
        return Advice(f"The result is {', '.join(self.said)}.", "answer: " + "|".join(self.said))

    def slips(self) -> Sequence[str]:
        """See `Game.slips`: wrong names, which the engine refuses, and statements that show something else."""
        s = self.schema
        wrong = ("{0} FROM table_1", "value FROM {1}", "{0} FROM {1} WHERE 1 = 0")
        return [f"sql: SELECT {text.format(s.name, s.table)}" for text in wrong]


@dataclass(frozen=True, slots=True)
class Draft:
    """A kind of question: texts with the names of `_values` in braces."""

    question: str
    thought: str
    statement: str


_COUNT, _SORT = "I count the rows.", "I sort and take the first."
DRAFTS = (
    Draft(
        "What is the {column} of the {key} {name}?",
        "I look up the {column}.",
        "SELECT {column} FROM {table} WHERE {key} = '{name}'",
    ),
    Draft(
        "How many rows have the {by} {group}?", _COUNT, "SELECT COUNT(*) FROM {table} WHERE {by} = '{group}'"
    ),
    Draft("How many rows are in the table?", _COUNT, "SELECT COUNT(*) FROM {table}"),
    Draft(
        "How many rows have {num} greater than {limit}?",
        _COUNT,
        "SELECT COUNT(*) FROM {table} WHERE {num} > {limit}",
    ),
    Draft(
        "How many rows have {num} less than {limit}?",
        _COUNT,
        "SELECT COUNT(*) FROM {table} WHERE {num} < {limit}",
    ),
    Draft("What is the largest {num}?", "I take the maximum.", "SELECT MAX({num}) FROM {table}"),
    Draft("What is the smallest {num}?", "I take the minimum.", "SELECT MIN({num}) FROM {table}"),
    Draft("What is the sum of {num}?", "I take the sum.", "SELECT SUM({num}) FROM {table}"),
    Draft(
        "What is the sum of {num} for the {by} {group}?",
        "I take the sum.",
        "SELECT SUM({num}) FROM {table} WHERE {by} = '{group}'",
    ),
    Draft(
        "Which {key} has the largest {num}?", _SORT, "SELECT {key} FROM {table} ORDER BY {num} DESC LIMIT 1"
    ),
    Draft("Which {key} has the smallest {num}?", _SORT, "SELECT {key} FROM {table} ORDER BY {num} LIMIT 1"),
    Draft(
        "Which {key} has the {num} {limit}?",
        "I look up the {key}.",
        "SELECT {key} FROM {table} WHERE {num} = {limit}",
    ),
    Draft(
        "Insert a row with {key} {new}, {by} {other}, {num} {amount}.",
        "I insert the row.",
        "INSERT INTO {table} VALUES ('{new}', '{other}', {amount})",
    ),
    Draft(
        "Set the {num} of the {key} {name} to {amount}.",
        "I update the {num}.",
        "UPDATE {table} SET {num} = {amount} WHERE {key} = '{name}'",
    ),
    Draft(
        "Set the {by} of the {key} {name} to {other}.",
        "I update the {by}.",
        "UPDATE {table} SET {by} = '{other}' WHERE {key} = '{name}'",
    ),
    Draft(
        "Delete the rows with the {by} {group}.",
        "I delete the rows.",
        "DELETE FROM {table} WHERE {by} = '{group}'",
    ),
)


def _values(schema: Schema, rows: Sequence[tuple[str, str, int]], rng: Random) -> dict[str, str]:
    """What a draft's braces stand for."""
    name, group, number = rng.choice(rows)
    return {
        "table": schema.table,
        "key": schema.name,
        "by": schema.group,
        "num": schema.number,
        "column": rng.choice((schema.group, schema.number)),
        "name": name,
        "group": group,
        "limit": str(rng.choice(rows)[2]),
        "new": rng.choice([other for other in schema.names if other not in [row[0] for row in rows]]),
        # Never the value that is there already, so that doing nothing is never right.
        "other": rng.choice([other for other in schema.groups if other != group]),
        "amount": str(rng.choice([other for other in range(schema.low, schema.high + 1) if other != number])),
    }


def _deal(rng: Random) -> Database:
    schema = rng.choice(SCHEMAS)
    names = rng.sample(schema.names, rng.randint(4, 7))
    numbers = rng.sample(range(schema.low, schema.high + 1), len(names))
    rows = [(name, rng.choice(schema.groups), number) for name, number in zip(names, numbers, strict=True)]
    draft, values = rng.choice(DRAFTS), _values(schema, rows, rng)
    return Database(
        schema,
        rows,
        question=draft.question.format_map(values),
        thought=draft.thought.format_map(values),
        statement=draft.statement.format_map(values),
        engine=_open(schema, rows),
    )


DATABASE = World(name="database", held_in=True, rounds=6, instruction=INSTRUCTION, form=OPERATION, deal=_deal)
