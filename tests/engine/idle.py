"""Waits until an engine holds nothing, or something. Refuses to know what it was doing."""

import time
from collections.abc import Callable

import pytest

from agentlm import LLM

SECONDS = 20.0
"""How long a test waits for something that should come at once."""


def wait_idle(llm: LLM) -> dict[str, float]:
    """The counters once nothing is in the engine; fails if that does not come."""
    held = ("unfinished", "running", "queued", "blocks_held")
    return _wait(llm, lambda stats: not any(stats[name] for name in held), "still holds requests")


def wait_for(llm: LLM, counter: str) -> dict[str, float]:
    """The counters once this one is not zero; fails if that does not come."""
    return _wait(llm, lambda stats: stats[counter] != 0, f"has nothing {counter}")


def _wait(llm: LLM, is_there: Callable[[dict[str, float]], bool], otherwise: str) -> dict[str, float]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        stats = llm.stats()
        if is_there(stats):
            return stats
        time.sleep(0.01)
    pytest.fail(f"the engine {otherwise}: {llm.stats()}")
