"""Waits until an engine holds nothing. Refuses to know what it was doing."""

import time

import pytest

from agentlm import LLM

SECONDS = 20.0
"""How long a test waits for something that should come at once."""


def wait_idle(llm: LLM) -> dict[str, float]:
    """The counters once nothing is in the engine; fails if that does not come."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        stats = llm.stats()
        if stats["unfinished"] == stats["running"] == stats["queued"] == stats["blocks_held"] == 0:
            return stats
        time.sleep(0.01)
    pytest.fail(f"the engine still holds requests: {llm.stats()}")
