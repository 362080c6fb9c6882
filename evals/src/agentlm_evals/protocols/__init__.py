"""Protocols: the exact prompts and rules of a published harness. Refuses to know how a task uses them.

`agentlm` is our own wording in the same forms and needs nothing. The texts of `agenttuning` are not ours to ship:
they are read from a local checkout of the official sources at pinned commits (`source.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

AGENTLM = "agentlm"
AGENTTUNING = "agenttuning"


@dataclass(frozen=True, slots=True)
class Protocol:
    """The protocol of one task in one run."""

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    """What was read from the sources, by the task's own keys; empty for `agentlm`."""
    version: str = "1"
    """Of our wording; of official sources the commits."""
    template: str | None = None
    """The chat template that the published harness rendered messages with; None: the server's own."""
