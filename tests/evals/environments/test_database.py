"""The SQL engine serves the table and nothing else."""

import time

import pytest

from agentlm_evals.environments import WORLDS, Item, Split


@pytest.fixture
def game():
    world = WORLDS["database"]
    return world.begin(Item("database", Split.TRAIN, 0))


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH DATABASE '/tmp/agentlm-evil.db' AS evil",
        "PRAGMA journal_mode",
        "CREATE TABLE t (x)",
        "DROP TABLE players",
        "SELECT load_extension('x')",
        "VACUUM INTO '/tmp/agentlm-evil.db'",
        "SELECT 1; SELECT 2",
        "SELECT zeroblob(1000000000)",
        "not sql at all",
        "",
    ],
)
def test_statements_beyond_the_table_are_errors_or_empty(game, statement):
    assert game.act(f"sql: {statement}").startswith(("Error: ", "[]"))


def test_an_endless_query_is_stopped(game):
    table = game.schema.table
    began = time.monotonic()
    shown = game.act(f"sql: SELECT COUNT(*) FROM {', '.join(f'{table} t{n}' for n in range(12))}")
    assert shown == "Error: interrupted"
    assert time.monotonic() - began < 5
    assert game.act(f"sql: SELECT COUNT(*) FROM {table}") == f"[({len(game.rows)},)]"


def test_a_wrong_change_is_wrong_and_the_answers_order_is_free():
    world = WORLDS["database"]
    for number in range(60):
        game = world.begin(Item("database", Split.TRAIN, number))
        if game.changes:
            game.act(f"sql: DELETE FROM {game.schema.table}")
            game.act("answer: done")
            assert game.reward == 0.0
