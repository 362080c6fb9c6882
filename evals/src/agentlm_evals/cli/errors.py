"""Errors raised on purpose, as the command line shows them. Refuses to know what raised them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from agentlm_evals.errors import EvalError


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turns an `EvalError` into one line and exit code 1: under `agentlm` its own main function does not know them."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EvalError as error:
            raise click.ClickException(str(error)) from error

    return run
