"""The callers: they connect one after the other, ask again and again until the time is up, and check every answer.

Refuses to know how the server was started and how results are shown.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.load.asked import Ask, WrongAnswerError, draw_ask, every_ask, streamed_text, whole_text
from bench.load.connection import Answer, Connection, LostAnswerError, connect

EVENT_BYTES = 200
"""Every event has at least so many, so that a cut at a share of this falls inside the stream."""
CUT_BETWEEN = (0.05, 0.9)
MOST_TOLD = 20
"""Faults that are described; all are counted."""
TICK_SECONDS = 0.05
REFERENCES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """How much traffic of which kind."""

    connections: int
    seconds: float
    ramp_seconds: float
    slow_share: float
    cut_share: float
    lengths: tuple[int, ...]
    """Tokens of an answer."""
    patience_seconds: float
    """An answer that takes longer is lost."""


@dataclass(slots=True)
class Tally:
    """What happened. Times in seconds."""

    asked: int = 0
    whole: int = 0
    cut: int = 0
    lost: int = 0
    wrong: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """By status."""
    tokens: int = 0
    first_fast: list[float] = field(default_factory=list)
    first_slow: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    """How late our own loop was."""
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Notes what is wrong."""
        if len(self.faults) < MOST_TOLD:
            self.faults.append(text)


async def references(port: int, lengths: tuple[int, ...]) -> dict[Ask, str]:
    """The text of every ask, asked without a stream, a few at a time. Raises `WrongAnswerError`, `LostAnswerError`."""
    gate = asyncio.Semaphore(REFERENCES_AT_ONCE)

    async def one(ask: Ask) -> str:
        async with gate:
            connection = await connect(port, slow=False)
            try:
                answer = await connection.ask(ask.request(stream=False), None)
            finally:
                connection.close()
        if answer is None or answer.status != 200:
            raise WrongAnswerError(f"no reference for {ask}: {answer}")
        return whole_text(answer.body, ask)

    asks = every_ask(lengths)
    return dict(zip(asks, await asyncio.gather(*(one(ask) for ask in asks)), strict=True))


async def run(
    port: int, shape: Shape, expected: dict[Ask, str], tally: Tally, progress: Callable[[Tally], None]
) -> None:
    """All callers, until the last answer that was asked for in time is there."""
    started = time.monotonic()
    until = started + shape.ramp_seconds + shape.seconds
    ticking = asyncio.create_task(_tick(tally, progress))
    callers = []
    for number in range(shape.connections):
        callers.append(asyncio.create_task(_caller(number, port, shape, expected, tally, until)))
        pause = started + shape.ramp_seconds * (number + 1) / shape.connections - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
    await asyncio.gather(*callers)
    ticking.cancel()


async def _tick(tally: Tally, progress: Callable[[Tally], None]) -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        tally.lag.append(time.monotonic() - before - TICK_SECONDS)
        progress(tally)


async def _caller(
    number: int, port: int, shape: Shape, expected: dict[Ask, str], tally: Tally, until: float
) -> None:
    draw = random.Random(number)
    slow = int((number + 1) * shape.slow_share) > int(number * shape.slow_share)
    connection: Connection | None = None
    try:
        while time.monotonic() < until:
            if connection is None or not connection.is_open:
                connection = await connect(port, slow=slow)
            ask = draw_ask(draw, shape.lengths)
            cut = ask.streams and draw.random() < shape.cut_share
            after = int(draw.uniform(*CUT_BETWEEN) * ask.tokens * EVENT_BYTES) if cut else None
            tally.asked += 1
            try:
                async with asyncio.timeout(shape.patience_seconds):
                    answer = await connection.ask(ask.request(), after)
            except (LostAnswerError, TimeoutError) as error:
                tally.lost += 1
                tally.fault(f"lost: {ask}: {error!r}")
                connection.close()
                continue
            _take(answer, ask, expected, tally, slow=slow)
    except OSError as error:
        tally.lost += 1
        tally.fault(f"connection {number}: {error!r}")
    finally:
        if connection is not None:
            connection.close()


def _take(answer: Answer | None, ask: Ask, expected: dict[Ask, str], tally: Tally, *, slow: bool) -> None:
    if answer is None:
        tally.cut += 1
        return
    if answer.status != 200:
        tally.refused[answer.status] += 1
        tally.fault(f"refused with {answer.status}: {answer.body[:200]!r}")
        return
    if answer.first_event is not None:
        (tally.first_slow if slow else tally.first_fast).append(answer.first_event)
    try:
        text = streamed_text(answer.body, ask) if ask.streams else whole_text(answer.body, ask)
        if text != expected[ask]:
            raise WrongAnswerError(f"{text[:80]!r} instead of {expected[ask][:80]!r}")
    except WrongAnswerError as error:
        tally.wrong += 1
        tally.fault(f"wrong: {ask}: {error}")
        return
    tally.whole += 1
    tally.tokens += ask.tokens
