"""Runs a client's cases and prints what came of each, as one JSON object on the last line. Needs only Python.

A case is a function, plain or async; its name is the key. What it returns is told as `{"value": …}`, what it raises as
`{"raised": class, "kinds": classes above, "text": …, …}` with the attributes by which clients tell errors apart.
"""

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

TOLD = ("status_code", "code", "param", "type", "body")
_cases: list[Callable[[], Any]] = []


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Marks a case."""
    _cases.append(function)
    return function


def _refused(error: Exception) -> dict[str, Any]:
    told: dict[str, Any] = {
        "raised": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "text": str(error),
    }
    response = getattr(error, "response", None)
    if response is not None:
        told["status"] = response.status_code
        told["headers"] = {name.lower(): value for name, value in response.headers.items()}
    told.update({name: getattr(error, name) for name in TOLD if hasattr(error, name)})
    return told


def _outcome(function: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": function()}
    except Exception as error:
        return _refused(error)


async def _outcomes(functions: list[Callable[[], Any]]) -> dict[str, Any]:
    told = {}
    for function in functions:
        try:
            told[function.__name__] = {"value": await function()}
        except Exception as error:
            told[function.__name__] = _refused(error)
    return told


def run() -> None:
    """Runs the plain cases, then the async ones in one event loop, in which some clients keep their connections."""
    later = [function for function in _cases if inspect.iscoroutinefunction(function)]
    told = {function.__name__: _outcome(function) for function in _cases if function not in later}
    told.update(asyncio.run(_outcomes(later)))
    # Some clients write to standard output too: the last line is ours.
    print()
    print(json.dumps(told, default=str))
