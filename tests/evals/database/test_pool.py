"""Engines of a run: one that an episode did not break is used again, however the episode ended."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentlm_evals.errors import LimitReached
from agentlm_evals.tasks.database.engine import Engine, EngineError, Session
from agentlm_evals.tasks.database.item import Table
from agentlm_evals.tasks.database.pool import EnginePool

TABLE = Table("t", ("a",), (("1",),))


class Counted(Engine):
    """Counts how many there are."""

    made = 0
    closed = 0

    def __init__(self) -> None:
        type(self).made += 1

    @contextmanager
    def session(self, table: Table) -> Iterator[Session]:
        yield None  # type: ignore[misc]  # nobody asks it anything

    def version(self) -> str:
        return "none"

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def _none() -> None:
    Counted.made = Counted.closed = 0


async def test_an_episode_that_ends_early_gives_its_engine_back() -> None:
    pool = EnginePool(Counted, 1)
    for error in (LimitReached("the context is full"), RuntimeError("ours"), None):
        try:
            async with pool.session(TABLE):
                if error is not None:
                    raise error
        except (LimitReached, RuntimeError):
            continue
    assert (Counted.made, Counted.closed) == (1, 0)
    await pool.close()
    assert Counted.closed == 1


async def test_an_engine_that_broke_is_not_used_again() -> None:
    pool = EnginePool(Counted, 1)
    with pytest.raises(EngineError):
        async with pool.session(TABLE):
            raise EngineError("gone")
    assert (Counted.made, Counted.closed) == (1, 1)
    async with pool.session(TABLE):
        pass
    await pool.close()
    assert (Counted.made, Counted.closed) == (2, 2)


async def test_an_engine_of_an_episode_that_was_cut_off_is_replaced() -> None:
    pool = EnginePool(Counted, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), pool.session(TABLE):
            await asyncio.sleep(5)
    assert (Counted.made, Counted.closed) == (1, 1)
    await pool.close()
    assert Counted.closed == 1
