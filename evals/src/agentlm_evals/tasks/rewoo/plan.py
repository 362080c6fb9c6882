"""A plan as the planner writes it: steps, and for each a tool's call. Refuses to know what tools do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_PLAN = "Plan:"
_NAME = re.compile(r"#E\d+")


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and calls by the name that their result has."""

    steps: list[str] = field(default_factory=list)
    """Lines that begin with `Plan:`."""
    calls: dict[str, str] = field(default_factory=dict)
    """`#E1` to `Tool[input]`, or to whatever stands there."""


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a tool."""

    tool: str
    text: str


def read_plan(reply: str, *, nothing: str) -> Plan:
    """Lines that begin with `Plan:`, and `#E1 = …` to `#E9 = …`; a call of another name has no evidence, as published."""
    plan = Plan()
    for line in reply.splitlines():
        if line.startswith(_PLAN):
            plan.steps.append(line)
        elif re.match(r"#E\d", line) and "=" in line:
            name, call = (part.strip() for part in line.split("=", 1))
            plan.calls[name] = call if len(name) == 3 else nothing
    return plan


def read_call(text: str, found: Mapping[str, str]) -> Call | None:
    """`Tool[input]` with earlier results in brackets where their names stand; None if it is no call."""
    tool, bracket, rest = text.partition("[")
    if not bracket:
        return None
    # The last sign is taken to be the closing bracket, as published.
    argument = rest[:-1]
    for name in _NAME.findall(argument):
        if name in found:
            argument = argument.replace(name, f"[{found[name]}]")
    return Call(tool, argument)
