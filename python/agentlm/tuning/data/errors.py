"""What can be wrong with data, and with a machine that lacks what a data format needs. Refuses to know how it is found."""

import importlib
from typing import Any

from agentlm.errors import AgentLMError


class DataError(AgentLMError):
    """A data file cannot be read, or a setting makes no sense for it."""


class RowError(AgentLMError):
    """One row cannot be used; it is rejected with this reason and the others go on."""


class MissingExtraError(AgentLMError):
    """A package of the extra `agentlm[tune]` is not installed."""


def extra(module: str, what: str) -> Any:
    """A module of the extra `agentlm[tune]`, imported now. Raises `MissingExtraError` that says `what` needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs {module.partition('.')[0]}: pip install 'agentlm[tune]' ({error})"
        ) from error
