"""Whether sandboxes can be made on this machine, found out by making one. Refuses to know what for."""

from functools import cache

from agentlm_evals.errors import EvalError
from agentlm_evals.sandbox.box import Sandbox
from agentlm_evals.sandbox.host import host_layout
from agentlm_evals.sandbox.limits import Limits


@cache
def why_not() -> str:
    """Why none can be made; empty if one can. Takes a tenth of a second, once."""
    try:
        with Sandbox(host_layout(), Limits()):
            return ""
    except EvalError as error:
        return str(error)
