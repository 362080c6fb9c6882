"""An episode's time, which stands still while servers fail. Refuses to know episodes and servers.

A wait for a server that refuses, resets or answers nonsense is not the model's doing: it must not end an episode as a spent
budget does. Whoever waits says so (`excuse`); the episode that waits finds its clock put forward.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar


class Clock:
    """What is left of a number of seconds; None: no bound."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._begun = time.monotonic()
        self._excused = 0.0
        self._timeout: asyncio.Timeout | None = None

    @property
    def is_over(self) -> bool:
        """Whether the seconds are spent."""
        return self._seconds is not None and time.monotonic() - self._begun - self._excused >= self._seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises TimeoutError within the block when the seconds are spent."""
        token = _RUNNING.set(self)
        try:
            async with asyncio.timeout(self._seconds) as self._timeout:
                yield
        finally:
            self._timeout = None
            _RUNNING.reset(token)

    def excuse(self, seconds: float) -> None:
        """So many seconds do not count, those just gone by or those about to."""
        self._excused += seconds
        timeout = self._timeout
        if timeout is not None and not timeout.expired() and (until := timeout.when()) is not None:
            timeout.reschedule(until + seconds)


_RUNNING: ContextVar[Clock | None] = ContextVar("clock", default=None)
"""Each episode's own: it belongs to the episode's asyncio task and what that starts."""


def excuse(seconds: float) -> None:
    """The episode that runs here, if one does, is not to lose these seconds."""
    clock = _RUNNING.get()
    if clock is not None:
        clock.excuse(seconds)
