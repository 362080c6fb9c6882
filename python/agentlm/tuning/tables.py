"""Frozen dataclasses from TOML tables and back, each value checked against its field's type. Refuses to know which."""

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from agentlm.errors import ConfigError

C = TypeVar("C")


def change(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, making tables on its way. Raises `ConfigError` if something else is in the way."""
    *path, last = key.split(".")
    at: Any = values
    for part in path:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise ConfigError(f"`{key}` cannot be set: `{part}` is not a table")
    at[last] = value


def section(kind: type[C], values: Any, path: str = "") -> C:
    """A dataclass from a table called `path`, each value of the type that its field says. Raises `ConfigError`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{path}` must be a table. Given: {values!r}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        place = f"in [{path}]" if path else "at the top"
        raise ConfigError(f"unknown keys {place}: {', '.join(unknown)}. Known: {', '.join(known)}")
    hints = get_type_hints(kind)
    given = {}
    for name, f in known.items():
        where = f"{path}.{name}" if path else name
        if name in values:
            given[name] = _value(hints[name], values[name], where)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"`{where}` is missing")
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"[{path}] {error}" if path.endswith("]") else str(error)) from None


def _value(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the type that is asked for; integers pass for numbers, and nothing else for anything else."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if type(None) in options and (value is None or (value is False and bool not in options)):
            return None
        errors = []
        for option in options:
            if option is type(None):
                continue
            try:
                return _value(option, value, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if is_dataclass(hint):
        return section(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        inner = get_args(hint)
        if len(inner) != 2 or inner[1] is not Ellipsis:
            if len(value) != len(inner):
                raise ConfigError(f"`{where}` must be {len(inner)} values. Given: {value!r}")
            return tuple(_value(kind, item, where) for kind, item in zip(inner, value, strict=True))
        return tuple(_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (Mapping, dict) or getattr(origin, "__name__", "") == "Mapping":
        if isinstance(value, Mapping):
            return {key: _value(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    elif origin is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"`{where}` must be one of {', '.join(map(str, get_args(hint)))}. Given: {value!r}")
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"`{where}` must be {_told(hint)}. Given: {value!r}")


def _told(hint: Any) -> str:
    names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return names.get(hint, "a list" if get_origin(hint) is tuple else "a table")


def plain(value: Any) -> Any:
    """A dataclass as nested dictionaries and lists. What is absent is left out, or false where absence means a default."""
    if is_dataclass(value):
        named: dict[str, Any] = {}
        for f in fields(value):
            own = getattr(value, f.name)
            if own is None and f.default is not None:
                named[f.name] = False
            elif own is not None:
                named[f.name] = plain(own)
        return named
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def absent(value: Any, path: str = "") -> list[str]:
    """The dotted keys and tables of a dataclass that are not set."""
    found = []
    for f in fields(value):
        own, where = getattr(value, f.name), f"{path}{f.name}"
        if own is None and f.default is None:
            found.append(where)
        elif is_dataclass(own):
            found += absent(own, f"{where}.")
    return found


def toml(values: Mapping[str, Any], path: str = "") -> str:
    """What `plain` gave, as TOML: values first, then tables."""
    lines, tables = [], []
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            tables.append(f"\n[{where}]\n{toml(value, where)}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables.extend(f"\n[[{where}]]\n{toml(item, where)}" for item in value)
        else:
            lines.append(
                f"{key if key.replace('_', '').isalnum() and key.isascii() else _quoted(key)} = {_scalar(value)}\n"
            )
    return "".join(lines + tables)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
