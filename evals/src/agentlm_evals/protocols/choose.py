"""A task's protocol by name. Refuses to read the environment."""

from pathlib import Path

from agentlm_evals.errors import ConfigError
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.task import Task


def choose_protocol(task: Task, name: str | None, directory: Path) -> Protocol:
    """The protocol `name` of a task; None: its first.

    Raises:
        ConfigError: The task does not know it.
        ProtocolError: Its sources are missing, or not the pinned ones.
    """
    name = name or task.protocols[0]
    if name not in task.protocols:
        raise ConfigError(f"task {task.name} knows the protocols {', '.join(task.protocols)}, not {name!r}")
    if name == AGENTTUNING:
        from agentlm_evals.protocols.source import load

        return load(task.name, directory)
    return Protocol(AGENTLM if name == AGENTLM else name)
