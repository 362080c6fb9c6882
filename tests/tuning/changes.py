"""Keys of nested dictionaries, changed by name. Refuses to know which configuration they are of."""

from typing import Any


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `{"training__steps": 3}` set at `values["training"]["steps"]`."""
    for key, value in changes.items():
        *path, last = key.split("__")
        at = values
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return values
